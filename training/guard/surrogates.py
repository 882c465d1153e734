"""Differentiable stand-ins for a guard, whose gate cannot be differentiated.

    - `rectifier`: every picture is rectified.
    - `both branches`: the mean of the probabilities of the bare and the rectified branch, which is
      only far from a label when both are.
    - `soft gate`: pictures are blended by a sigmoid of the score, so that the gradient also sees
      the detector.
    - `expected guard`: the probabilities of the two branches, weighted by the sigmoid that the gate
      becomes when it is uncertain by `GATE_WIDTH`: what such a guard answers in expectation.
    - `wide gate`: the same with a gate uncertain by `WIDE_GATE_WIDTH`. Scores of perturbed pictures
      lie far above the threshold, where the narrow sigmoid is flat and hides the detector.
    - `bare target`: as if there were no guard; what a transferred perturbation is crafted on.

In mixed precision rectifier and target compute in bfloat16; the detector never does, because the
logarithm of its spectrum magnifies what rounding leaves in empty frequencies.
"""

from collections.abc import Callable
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prn_guard.nn.guarded import GuardedClassifier
from training.attacks.fooling import Classifier
from training.guard.recipe import Precision

GATE_WIDTH: Final = 1.0
"""Scores this far from the threshold are e:1 decided; the SVM's own margin is 1."""
WIDE_GATE_WIDTH: Final = 5.0


@final
class Surrogate(nn.Module):
    """What is attacked in place of a guard, as a module: some attacks look at its layers.

    Args:
        guarded: the guard, whose layers they are.
        classify: a surrogate made of it.
    """

    def __init__(self, guarded: GuardedClassifier, classify: Classifier) -> None:
        super().__init__()
        self.guarded = guarded
        self._classify = classify

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)` of pictures `(B, C, H, W)` in [0, 1]."""
        return self._classify(images)


def through_rectifier(guarded: GuardedClassifier) -> Classifier:
    """The target on rectified pictures."""
    return lambda images: guarded.target(guarded.rectifier(images))


def both_branches(guarded: GuardedClassifier) -> Classifier:
    """Log of the mean probability of the two branches, up to log 2, as logits `(B, K)`."""

    def classify(images: Tensor) -> Tensor:
        bare = _log_probabilities(guarded, images)
        rectified = _log_probabilities(guarded, guarded.rectifier(images))
        return torch.logaddexp(bare, rectified)

    return classify


def soft_gate(guarded: GuardedClassifier) -> Classifier:
    """The target on pictures blended by how sure the detector is."""

    def classify(images: Tensor) -> Tensor:
        rectified = guarded.rectifier(images)
        share = excess(guarded, images, rectified).sigmoid()[:, None, None, None]
        logits: Tensor = guarded.target(share * rectified + (1 - share) * images)
        return logits

    return classify


def expected_guard(guarded: GuardedClassifier, *, width: float = GATE_WIDTH) -> Classifier:
    """`log(s * p_rectified + (1 - s) * p_bare)`, `(B, K)`, with s the sigmoid of the excess score.

    Args:
        guarded: the guard.
        width: by how much a score must exceed the threshold for odds of e:1.
    """

    def classify(images: Tensor) -> Tensor:
        rectified = guarded.rectifier(images)
        over = excess(guarded, images, rectified, width=width)[:, None]
        return torch.logaddexp(
            F.logsigmoid(over) + _log_probabilities(guarded, rectified),
            F.logsigmoid(-over) + _log_probabilities(guarded, images),
        )

    return classify


def wide_gate(guarded: GuardedClassifier) -> Classifier:
    """`expected_guard` with a gate that is far from decided."""
    return expected_guard(guarded, width=WIDE_GATE_WIDTH)


def bare_target(guarded: GuardedClassifier) -> Classifier:
    """The target on pictures as they come."""
    return guarded.target


def excess(
    guarded: GuardedClassifier, images: Tensor, rectified: Tensor, *, width: float = GATE_WIDTH
) -> Tensor:
    """By how many `width`s the scores exceed the threshold, `(B,)`; above 0 is flagged.

    Args:
        guarded: whose detector and threshold.
        images: `(B, C, H, W)` in [0, 1].
        rectified: the same pictures after the rectifier.
        width: the unit.
    """
    with torch.autocast(images.device.type, enabled=False):
        score: Tensor = guarded.detector(images - rectified.to(images.dtype))
        return (score - guarded.detector.threshold) / width


def in_precision(function: Callable[[Tensor], Tensor], precision: Precision) -> Classifier:
    """`function` of pictures `(B, C, H, W)`, computed in `precision`; answers as the pictures."""
    if precision == "float32":
        return function

    def mixed(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            return function(images).to(images.dtype)

    return mixed


def _log_probabilities(guarded: GuardedClassifier, images: Tensor) -> Tensor:
    logits: Tensor = guarded.target(images)
    # In bfloat16 the logarithm of a probability near 1 would be 0 or -1/256.
    return (logits.float() if logits.dtype == torch.bfloat16 else logits).log_softmax(dim=1)


SURROGATES: Final[dict[str, Callable[[GuardedClassifier], Classifier]]] = {
    "rectifier": through_rectifier,
    "both branches": both_branches,
    "soft gate": soft_gate,
    "expected guard": expected_guard,
}
"""Those that stand in for a guard by themselves."""
ALL_SURROGATES: Final = SURROGATES | {"wide gate": wide_gate, "bare target": bare_target}
