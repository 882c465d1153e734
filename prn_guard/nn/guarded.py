"""The guarded classifier: rectify, score, choose, classify once.

Source: PRN paper, section 4.3: a flagged picture is classified after rectification, any other as it
came. Departure: the choice is made on the picture, so that the target runs once per picture.
"""

from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from prn_guard.nn.detector import Detector
from prn_guard.nn.target import Target


class GuardOutput(NamedTuple):
    """What the guarded classifier answers for a batch of B pictures."""

    logits: Tensor
    """`(B, K)` float32, of the picture that was classified."""
    label: Tensor
    """`(B,)` int64."""
    score: Tensor
    """`(B,)` float32; higher is more suspicious."""
    flagged: Tensor
    """`(B,)` bool: `score > threshold`."""
    rectified: Tensor
    """`(B, C, H, W)` float32 in [0, 1], whether flagged or not."""


@final
class GuardedClassifier(nn.Module):
    """Target, rectifier and detector as one module."""

    def __init__(self, target: Target, rectifier: nn.Module, detector: Detector) -> None:
        super().__init__()
        self.target = target
        self.rectifier = rectifier
        self.detector = detector

    def forward(self, images: Tensor) -> GuardOutput:
        """Classify `images`, `(B, C, H, W)` float32 in [0, 1]."""
        rectified, score, flagged = self.examine(images)
        chosen = torch.where(flagged[:, None, None, None], rectified, images)
        logits = self.target(chosen)
        return GuardOutput(logits, logits.argmax(dim=1), score, flagged, rectified)

    def examine(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rectified pictures `(B, C, H, W)`, scores `(B,)` and flags `(B,)`, without the target."""
        rectified = self.rectifier(images)
        score = self.detector(images - rectified)
        return rectified, score, score > self.detector.threshold
