"""A linear detector that is trained together with the rectifier.

Ours; the PRN paper fits its detector to what a finished rectifier removes (section 4.3). Trained
together, the rectifier learns to remove more where there is a perturbation than where there is
none, and gradients reach it through the very features that the detector reads in service.

No weight is negative: whatever the rectifier removes makes a picture more suspicious, and the only
way under the threshold is to have less removed. A detector with weights of either sign, on the log
magnitudes of the whole plane, took many times as many rounds to hold against attacks on the whole
guard (`training.guard.alternation`): small changes in a thousand coefficients outweigh a
perturbation that is removed all the same.

Features are standardised by running means, not by those of the mini-batch, so that a picture's
score does not depend on its neighbours and several processes compute the same. The threshold of a
guard is followed too, because perturbations are moved to stay below it
(`training.guard.held_perturbations`).
"""

import math
from typing import Final, cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prn_guard.nn.detector import Detector, DetectorSpec, build_detector, detector_spec
from training.guard.fit_detector import FALSE_POSITIVE_RATE
from training.processes import Processes

MOMENTUM: Final = 0.05
"""Weight of a mini-batch in the running means."""
CLEAN_WEIGHT: Final = 2.0
"""Of a clean picture beside a perturbed one: false alarms are what the threshold forbids."""
SMALLEST_SCALE: Final = 1e-3
FIRST_WEIGHTS: Final = 3.0
"""Of all features together, before any is known."""
THRESHOLD_STEP: Final = 2.0
"""The threshold moves by this times the excess of the share of clean pictures that are flagged."""
RATE_FACTOR: Final = 5.0
"""Of the detector's learning rate, beside the rectifier's: it has 4 or 64 weights and a bias."""


def joint_spec(height: int, width: int) -> DetectorSpec:
    """The detector that can be trained together with a rectifier for pictures of this size."""
    return detector_spec(height, width, features="energy")


@final
class JointDetector(nn.Module):
    """The linear detector of energies with weights that can be trained, none of them negative.

    Args:
        height: rows of the pictures.
        width: columns of the pictures.
        false_positive_rate: share of clean pictures above the threshold that is followed.
    """

    means: Tensor
    squares: Tensor
    seen: Tensor
    threshold: Tensor

    def __init__(
        self, height: int, width: int, *, false_positive_rate: float = FALSE_POSITIVE_RATE
    ) -> None:
        super().__init__()
        self._size = height, width
        self._false_positive_rate = false_positive_rate
        detector = build_detector(joint_spec(height, width), height, width)
        self.features = detector.features
        count = detector.features.count
        first = math.log(math.expm1(FIRST_WEIGHTS / count))
        self.free = nn.Parameter(torch.full((count,), first))
        self.bias = nn.Parameter(torch.zeros(()))
        self.register_buffer("means", torch.zeros(count))
        self.register_buffer("squares", torch.ones(count))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("threshold", torch.zeros(()))

    def forward(self, difference: Tensor) -> Tensor:
        """Scores `(B,)` of `difference = x - R(x)`, `(B, C, H, W)` float32."""
        return self.score(cast("Tensor", self.features(difference)))

    def score(self, features: Tensor) -> Tensor:
        """Scores `(B,)` of features `(B, F)`."""
        return (features - self.means) / self._scale() @ F.softplus(self.free) + self.bias

    @torch.no_grad()
    def follow(self, features: Tensor, together: Processes) -> None:
        """Move the running means towards the features of a mini-batch of all processes.

        Args:
            features: this process's share, `(B, F)` float32.
            together: the processes.
        """
        mean, square = features.mean(dim=0), features.square().mean(dim=0)
        together.average([mean, square])
        share = MOMENTUM if bool(self.seen) else 1.0
        self.means.lerp_(mean, share)
        self.squares.lerp_(square, share)
        self.seen.fill_(1.0)

    @torch.no_grad()
    def watch(self, scores: Tensor, is_perturbed: Tensor, together: Processes) -> None:
        """Move the threshold to where the wanted share of clean pictures is flagged.

        Source: Robbins and Monro 1951, equation 1. Departure: the step is constant, because scores
        drift while the detector learns. Downwards it is at most `THRESHOLD_STEP` times the wanted
        share, so that a threshold that is too high falls slowly.

        Args:
            scores: of this process's share of a mini-batch, `(B,)`.
            is_perturbed: which of them are no clean pictures, `(B,)` bool.
            together: the processes.
        """
        flagged = (scores.detach() > self.threshold) & ~is_perturbed
        counts = torch.stack([flagged.sum(), (~is_perturbed).sum()]).to(scores.dtype)
        together.average([counts])
        beyond = counts[0] - self._false_positive_rate * counts[1]
        self.threshold.add_(THRESHOLD_STEP * beyond / counts[1].clamp(min=1 / together.count))

    @torch.no_grad()
    def detector(self) -> Detector:
        """A copy as the detector of a guard; its threshold is not calibrated."""
        height, width = self._size
        copy = build_detector(joint_spec(height, width), height, width).to(self.free.device)
        copy.mean.copy_(self.means)
        copy.scale.copy_(self._scale())
        copy.weight.copy_(F.softplus(self.free))
        copy.bias.copy_(self.bias)
        return copy

    def _scale(self) -> Tensor:
        variance = (self.squares - self.means.square()).clamp(min=SMALLEST_SCALE**2)
        return variance.sqrt()


def detection_loss(scores: Tensor, is_perturbed: Tensor) -> Tensor:
    """The mean logistic loss `()` beyond a margin of 1 on either side.

    Args:
        scores: `(B,)` float32.
        is_perturbed: `(B,)` bool.
    """
    signs = torch.where(is_perturbed, 1.0, -1.0)
    weights = torch.where(is_perturbed, 1.0, CLEAN_WEIGHT)
    return (weights * F.softplus(1.0 - signs * scores)).mean()
