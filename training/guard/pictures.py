"""Pictures loaded as a guard's record says, so that evaluation and export see them as `fit` did."""

from pathlib import Path

from training.datasets import Pictures, Split, load_pictures
from training.guard.folder import GuardRecord


def recorded_pictures(
    record: GuardRecord,
    spec: str,
    split: Split,
    *,
    limit: int | None = None,
    data_folder: Path | None = None,
) -> Pictures:
    """Open the pictures `spec` at the size, and scaled the way, that the guard was fitted with.

    Args:
        record: of the guard.
        spec: as the user names pictures.
        split: which part of a set that has two.
        limit: at most so many.
        data_folder: where to look for Fashion-MNIST first; None takes the fit's.

    Raises:
        DataError: they cannot be read, or do not fit the guard's classes.
    """
    if data_folder is None and record.data_folder is not None:
        data_folder = Path(record.data_folder)
    return load_pictures(
        spec,
        split=split,
        size=record.input.shape,
        resize=record.resize,
        limit=limit,
        class_count=len(record.class_names),
        data_folder=data_folder,
    )
