"""Pictures as clients send them, to compare a graph with the torch modules on."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_guard.nn.guarded import GuardedClassifier
from training.datasets import Pictures, batch_for
from training.evaluation.outcomes import as_delivered

BATCH: Final = 250
DRIVEN_TO_THRESHOLD: Final = 256
"""So many pictures are also blended with a perturbation until their score is at the threshold."""
BISECTIONS: Final = 10


def deliveries(
    pictures: Pictures, perturbations: Tensor, guarded: GuardedClassifier
) -> Iterator[tuple[NDArray[np.uint8], bool]]:
    """Every picture clean and perturbed, some of them driven to the threshold.

    Args:
        pictures: all of them are delivered.
        perturbations: `(P, C, H, W)`, taken in turn.
        guarded: whose threshold is meant.

    Yields:
        batches `(N, H, W, C)` uint8, and whether they were driven to the threshold.
    """
    driven = 0
    for number, positions in enumerate(
        torch.split(torch.arange(len(pictures)), batch_for(pictures.shape, BATCH))
    ):
        images = pictures.batch(positions)
        perturbation = perturbations[number % len(perturbations)]
        yield as_integers(images), False
        yield as_integers(as_delivered(images, perturbation)), False
        if driven < DRIVEN_TO_THRESHOLD:
            close = near_threshold(images, perturbation, guarded)
            driven += len(close)
            if len(close):
                yield as_integers(close), True


@torch.no_grad()
def near_threshold(images: Tensor, perturbation: Tensor, guarded: GuardedClassifier) -> Tensor:
    """Pictures under so much of a perturbation that they are just about flagged.

    Args:
        images: `(B, C, H, W)` float32 in [0, 1].
        perturbation: `(C, H, W)`.
        guarded: rectifier, detector and threshold.

    Returns:
        Those that are unflagged when clean and flagged under the whole perturbation, each under the
        share of it that a bisection finds, in 8-bit steps: `(M, C, H, W)`, `M <= B`.
    """
    whole = guarded.examine(as_delivered(images, perturbation))[2]
    crossing = whole & ~guarded.examine(images)[2]
    images = images[crossing]
    low, high = torch.zeros(len(images), 1, 1, 1), torch.ones(len(images), 1, 1, 1)
    for _ in range(BISECTIONS if len(images) else 0):
        middle = (low + high) / 2
        flagged = guarded.examine(as_delivered(images, middle * perturbation))[2]
        flagged = flagged[:, None, None, None]
        low, high = torch.where(flagged, low, middle), torch.where(flagged, middle, high)
    return as_delivered(images, high * perturbation)


def as_integers(images: Tensor) -> NDArray[np.uint8]:
    """`(B, H, W, C)` uint8 in 0..255 of `(B, C, H, W)` float32 in [0, 1]."""
    pixels = (images * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def as_images(pixels: NDArray[np.uint8]) -> Tensor:
    """`(B, C, H, W)` float32 in [0, 1] of `(B, H, W, C)` uint8: what the torch modules take."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255
