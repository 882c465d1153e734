"""Running a guard over pictures, clean and perturbed, as a server would receive them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_guard.nn.guarded import GuardedClassifier
from training.attacks.norms import perturb
from training.datasets import Pictures, batch_for, batches

BATCH = 250


@dataclass(frozen=True)
class Answers:
    """What bare target, rectifier and guard say of N pictures, in order."""

    labels: NDArray[np.int64]
    """True labels `(N,)`."""
    bare: NDArray[np.int64]
    """Labels of the target on the pictures as they came."""
    rectified: NDArray[np.int64]
    """Labels of the target on the rectified pictures."""
    guarded: NDArray[np.int64]
    """Labels of the guard: rectified where flagged."""
    scores: NDArray[np.float64]
    flagged: NDArray[np.bool_]

    def right(self, predictions: NDArray[np.int64]) -> NDArray[np.float64]:
        """1 where `predictions` `(N,)` agree with the true labels, else 0."""
        agree: NDArray[np.bool_] = predictions == self.labels
        return agree.astype(np.float64)


def as_delivered(images: Tensor, perturbation: Tensor | None) -> Tensor:
    """Pictures under a perturbation, rounded to 8 bits as they travel to a server."""
    if perturbation is None:
        return images
    return (perturb(images, perturbation) * 255).round() / 255


@torch.no_grad()
def answers(
    guarded: GuardedClassifier, pictures: Pictures, perturbation: Tensor | None = None
) -> Answers:
    """Run everything on `pictures`, under `perturbation` `(C, H, W)` if given."""
    parts: list[tuple[Tensor, ...]] = []
    if perturbation is not None:
        perturbation = perturbation.to(pictures.device)
    for images, labels in batches(pictures, batch_for(pictures.shape, BATCH)):
        seen = as_delivered(images, perturbation)
        output = guarded(seen)
        bare = guarded.target(seen).argmax(dim=1)
        rectified = guarded.target(output.rectified).argmax(dim=1)
        parts.append((labels, bare, rectified, output.label, output.score, output.flagged))
    columns = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    true, bare_label, rectified_label, guarded_label, score, flagged = columns
    return Answers(
        true, bare_label, rectified_label, guarded_label, score.astype(np.float64), flagged
    )
