"""The DCT-SVM detector: is there a perturbation in what the rectifier removed?

Source: PRN paper, section 4.3. Departures: the SVM is linear on the (average-pooled) log-DCT plane,
because a kernel SVM would put hundreds of megabytes of support vectors into the graph, and the
threshold is calibrated for a stated false-positive rate instead of standing at the SVM's zero.
"""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prn_guard.nn.dct import dct_matrix, log_dct

FULL_PLANE = 32
"""Feature planes are pooled down to about this many cells a side."""


def pool_for(height: int, width: int) -> int:
    """Side of the averaged cell, so that a plane of `height` x `width` has about 32 x 32 cells."""
    return max(1, min(height, width) // FULL_PLANE)


@final
class Detector(nn.Module):
    """`score = w . standardise(pool(log|DCT2(gray(x - R(x)))|)) + b`, flagged above `threshold`.

    All in float32 and by plain matrix operations, so that the exported graph needs no operator that
    runs on the CPU only.

    Args:
        height: rows of the pictures.
        width: columns of the pictures.
        pool: side of the cells over which features are averaged; 1 keeps the whole plane.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    threshold: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, height: int, width: int, *, pool: int) -> None:
        super().__init__()
        self.pool = pool
        features = (height // pool) * (width // pool)
        self.register_buffer("rows", dct_matrix(height), persistent=False)
        self.register_buffer("columns", dct_matrix(width), persistent=False)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("weight", torch.zeros(features))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("threshold", torch.zeros(()))

    def features(self, difference: Tensor) -> Tensor:
        """`(B, features)` of `difference = x - R(x)`, `(B, C, H, W)` float32 in [-1, 1]."""
        plane = log_dct(difference, self.rows, self.columns)
        if self.pool > 1:
            plane = F.avg_pool2d(plane[:, None], self.pool)[:, 0]
        return plane.flatten(1)

    def forward(self, difference: Tensor) -> Tensor:
        """Scores `(B,)` of `difference = x - R(x)`; higher is more suspicious."""
        standard = (self.features(difference) - self.mean) / self.scale
        return standard @ self.weight + self.bias
