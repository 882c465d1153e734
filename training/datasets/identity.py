"""Telling sets of pictures apart, and whether two of them speak of the same classes."""

import hashlib
from dataclasses import dataclass
from typing import Final, final

import torch

from prn_guard.errors import DataError
from training.datasets.pictures import Pictures, even_positions

SAMPLED: Final = 64


@final
@dataclass(frozen=True)
class NamedPictures:
    """Pictures and how the user named them."""

    spec: str
    pictures: Pictures


def digest_of(pictures: Pictures) -> str:
    """How many pictures, and a digest of their labels and of some of them, evenly spaced.

    It tells sets apart that have the same name and size, without reading all of them.
    """
    digest = hashlib.sha256(pictures.labels.numpy().tobytes())
    images = pictures.batch(even_positions(len(pictures), SAMPLED))
    digest.update((images * 255).round().to(torch.uint8).cpu().numpy().tobytes())
    return f"{len(pictures)} of digest {digest.hexdigest()[:16]}"


def check_other_pictures(test: str, known: str, what: str) -> None:
    """Refuse to judge on the very pictures that what is judged was made from.

    Args:
        test: `digest_of` the test pictures.
        known: `digest_of` the others.
        what: the others are, for the message: "those that the guard was fitted on".

    Raises:
        DataError: the two are the same.
    """
    if test == known:
        raise DataError(
            f"The test pictures are {what} ({test}); expected others, because figures on these "
            "say nothing of pictures that are new. Give a set that was kept apart."
        )


def check_same_classes(names: tuple[str, ...], others: tuple[str, ...]) -> None:
    """Refuse two sets whose classes have other names; sets that only number them always agree.

    Raises:
        DataError: with the first class that differs.
    """
    if all(name.isdigit() for name in names) or all(name.isdigit() for name in others):
        return
    for index, (name, other) in enumerate(zip(names, others, strict=False)):
        if name != other:
            raise DataError(
                f"Class {index} is {name!r} in one set of pictures and {other!r} in the other. "
                "Subfolders, sorted by name, must be the classifier's classes in both."
            )
