"""Pictures loaded as a guard's record says, so that evaluation and export see them as `fit` did."""

from pathlib import Path

import torch

from training.attacks.subject import CRAFTING_PICTURES
from training.datasets import (
    Pictures,
    Split,
    Subset,
    check_other_pictures,
    check_same_classes,
    digest_of,
    load_pictures,
)
from training.guard.folder import GuardRecord
from training.guard.request import fitted_pictures
from training.randomness import generator_for


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


def judged_pictures(
    folder: Path,
    record: GuardRecord,
    spec: str,
    *,
    limit: int | None = None,
    data_folder: Path | None = None,
) -> Pictures:
    """Open the test pictures `spec` of the guard in `folder`.

    Args:
        folder: what `fit` wrote.
        record: of the guard.
        spec: as the user names pictures.
        limit: at most so many.
        data_folder: where to look for Fashion-MNIST first; None takes the fit's.

    Raises:
        DataError: they cannot be read, do not fit the guard's classes, or are the pictures that it
            was fitted on.
    """
    pictures = recorded_pictures(record, spec, "test", limit=limit, data_folder=data_folder)
    check_same_classes(record.class_names, pictures.class_names)
    as_many = pictures
    if limit != record.limit:
        # A part of the fitted pictures has another digest than all of them.
        as_many = recorded_pictures(
            record, spec, "test", limit=record.limit, data_folder=data_folder
        )
    check_other_pictures(
        digest_of(as_many), fitted_pictures(folder), "those that the guard was fitted on"
    )
    return pictures


def attackers_pictures(
    record: GuardRecord, spec: str | None, *, data_folder: Path | None = None
) -> Pictures:
    """Open the pictures of whoever attacks the guard.

    Args:
        record: of the guard.
        spec: pictures of the attacker's own; None takes the guard's training pictures.
        data_folder: where to look for Fashion-MNIST first; None takes the fit's.

    Raises:
        DataError: they cannot be read, or do not fit the guard's classes.
    """
    limit = record.limit if spec is None else None
    return recorded_pictures(
        record, spec or record.images, "train", limit=limit, data_folder=data_folder
    )


def crafting_pictures(
    record: GuardRecord,
    spec: str | None,
    *,
    data_folder: Path | None = None,
    seed: int,
    purpose: str,
) -> Pictures:
    """At most 5,000 pictures, drawn at random, for an attacker to craft on.

    Args:
        record: of the guard.
        spec: pictures of the attacker's own; None takes the guard's training pictures.
        data_folder: where to look for Fashion-MNIST first; None takes the fit's.
        seed: of the draw.
        purpose: what for; each purpose draws others.

    Raises:
        DataError: they cannot be read, or do not fit the guard's classes.
    """
    pictures = attackers_pictures(record, spec, data_folder=data_folder)
    order = torch.randperm(len(pictures), generator=generator_for(seed, purpose))
    return Subset(pictures, order[:CRAFTING_PICTURES])
