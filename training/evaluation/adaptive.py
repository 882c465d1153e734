"""An attacker who knows the guard: universal perturbations re-optimised end to end through it.

The gate is not differentiable, so three surrogates of the guarded classifier are attacked, and
whatever hurts the real one most is reported:

    - `rectifier`: every picture is rectified.
    - `both branches`: the mean of the probabilities of the bare and the rectified branch, which is
      only far from a label when both are.
    - `soft gate`: pictures are blended by a sigmoid of the score, so that the gradient also sees
      the detector.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from prn_guard.nn.guarded import GuardedClassifier
from training.attacks.fooling import Classifier
from training.attacks.norms import Norm
from training.attacks.stochastic_gradient import stochastic_gradient_uap
from training.datasets import Pictures
from training.progress import Tracker

GATE_WIDTH = 1.0
"""Scores this far from the threshold are e:1 decided; the SVM's own margin is 1."""


def through_rectifier(guarded: GuardedClassifier) -> Classifier:
    """The target on rectified pictures."""
    return lambda images: guarded.target(guarded.rectifier(images))


def both_branches(guarded: GuardedClassifier) -> Classifier:
    """Log of the mean probability of the two branches, as logits `(B, K)`."""

    def classify(images: Tensor) -> Tensor:
        bare = guarded.target(images).log_softmax(dim=1)
        rectified = guarded.target(guarded.rectifier(images)).log_softmax(dim=1)
        return torch.logaddexp(bare, rectified)

    return classify


def soft_gate(guarded: GuardedClassifier) -> Classifier:
    """The target on pictures blended by how sure the detector is."""

    def classify(images: Tensor) -> Tensor:
        rectified = guarded.rectifier(images)
        score = guarded.detector(images - rectified)
        share = ((score - guarded.detector.threshold) / GATE_WIDTH).sigmoid()
        share = share[:, None, None, None]
        logits: Tensor = guarded.target(share * rectified + (1 - share) * images)
        return logits

    return classify


SURROGATES: Final[dict[str, Callable[[GuardedClassifier], Classifier]]] = {
    "rectifier": through_rectifier,
    "both branches": both_branches,
    "soft gate": soft_gate,
}


def adaptive_perturbation(
    guarded: GuardedClassifier,
    surrogate: str,
    pictures: Pictures,
    *,
    norm: Norm,
    epsilon: float,
    generator: torch.Generator,
    track: Tracker | None = None,
) -> Tensor:
    """A perturbation `(C, H, W)` crafted through one of `SURROGATES` on `pictures`."""
    return stochastic_gradient_uap(
        SURROGATES[surrogate](guarded),
        pictures,
        norm=norm,
        epsilon=epsilon,
        generator=generator,
        on_step=track,
    )
