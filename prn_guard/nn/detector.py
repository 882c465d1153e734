"""The DCT-SVM detector: is there a perturbation in what the rectifier removed?

Source: PRN paper, section 4.3: an SVM on `log|DCT2(gray(x - R(x)))|`. Departures: the SVM is linear
by default, because a kernel SVM on the whole plane would put hundreds of megabytes of support
vectors into the graph; the radial basis function (`rbf`) takes averages over frequency bands, and a
bounded number of support vectors; `energy` takes the energies of all channels in small blocks.
Features are standardised, larger planes are pooled, and the threshold is calibrated for a stated
false-positive rate instead of standing at the SVM's zero.
"""

from typing import Final, Literal, Self, cast, final

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from prn_guard.errors import InvalidArgumentError
from prn_guard.nn.dct import (
    block_dct_matrix,
    block_mean_matrix,
    dct_matrix,
    log_dct,
    log_energy,
)
from prn_guard.nn.frequency_bands import (
    averaging_matrix,
    cell_edges,
    octave_edges,
)
from prn_guard.nn.rectifier import SMALL_PICTURE

Kernel = Literal["linear", "rbf"]
FeatureForm = Literal["plane", "bands", "energy"]
Edges = tuple[tuple[int, ...], tuple[int, ...]]
"""Of vertical and of horizontal bands."""

FULL_PLANE: Final = 32
"""Feature planes are pooled down to about this many cells a side."""
BANDS: Final = 10
"""A side, so that there are 100 features; fewer where a side has fewer frequencies."""
SMALL_BLOCK: Final = 2
LARGE_BLOCK: Final = 8
"""Sides of the blocks of `energy`, up to 64 pixels and above. So few features, 4 and 64, that no
combination of small changes adds up to a large one; so small blocks that some are flat."""
SUPPORT_VECTORS: Final = 1000
"""At most: with 100 features each and their coefficients, 0.4 MB of the graph and 0.1 MMAC."""


class DetectorSpec(BaseModel):
    """Everything needed to build a detector anew, but for the size of its pictures.

    Raises:
        ValidationError: the radial basis function is asked for on the whole plane.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernel: Kernel = "linear"
    features: FeatureForm = "plane"
    pool: int = Field(default=1, ge=1)
    """Side of the averaged cell of `plane`; 1 keeps the whole plane."""
    bands: int = Field(default=BANDS, ge=1, le=32)
    """A side: of `bands` in the plane, of `energy` in each block, which has as many pixels."""
    support_vectors: int = Field(default=SUPPORT_VECTORS, ge=2, le=10_000)
    """Of `rbf`: how many there are; before a fit, how many there may be."""

    @model_validator(mode="after")
    def _reduced(self) -> Self:
        if self.kernel == "rbf" and self.features == "plane":
            raise ValueError(
                "the radial basis function takes averages over frequency bands, not the plane: "
                "each support vector would be a plane"
            )
        return self


def pool_for(height: int, width: int) -> int:
    """Side of the averaged cell, so that a plane of `height` x `width` has about 32 x 32 cells."""
    return max(1, min(height, width) // FULL_PLANE)


def detector_spec(
    height: int, width: int, *, kernel: Kernel = "linear", features: FeatureForm | None = None
) -> DetectorSpec:
    """The detector to take for pictures of this size.

    Args:
        height: rows of the pictures.
        width: columns of the pictures.
        kernel: of the SVM.
        features: None takes `plane` for the linear kernel and `bands` for the other.

    Raises:
        InvalidArgumentError: the radial basis function is asked for on the whole plane.
    """
    form = features or ("bands" if kernel == "rbf" else "plane")
    if kernel == "rbf" and form == "plane":
        raise InvalidArgumentError(
            "A detector of kernel 'rbf' was asked for on the features 'plane'; expected 'bands', "
            "because each of its support vectors would be a whole plane."
        )
    bands = BANDS
    if form == "energy":
        bands = SMALL_BLOCK if max(height, width) <= SMALL_PICTURE else LARGE_BLOCK
    return DetectorSpec(kernel=kernel, features=form, pool=pool_for(height, width), bands=bands)


@final
class LogDctFeatures(nn.Module):
    """`log|DCT2(gray(x - R(x)))|`, averaged over cells of the plane.

    Args:
        height: rows of the pictures.
        width: columns of the pictures.
        edges: of the vertical and of the horizontal bands whose products are the cells; None keeps
            the whole plane.
    """

    rows: Tensor
    columns: Tensor
    row_bands: Tensor | None
    column_bands: Tensor | None

    def __init__(self, height: int, width: int, edges: Edges | None) -> None:
        super().__init__()
        bands: tuple[Tensor | None, Tensor | None] = (None, None)
        self.count = height * width
        if edges is not None:
            self.count = (len(edges[0]) - 1) * (len(edges[1]) - 1)
            bands = averaging_matrix(edges[0], height), averaging_matrix(edges[1], width)
        self.register_buffer("rows", dct_matrix(height), persistent=False)
        self.register_buffer("columns", dct_matrix(width), persistent=False)
        self.register_buffer("row_bands", bands[0], persistent=False)
        self.register_buffer("column_bands", bands[1], persistent=False)

    def forward(self, difference: Tensor) -> Tensor:
        """`(B, count)` of `difference = x - R(x)`, `(B, C, H, W)` float32 in [-1, 1]."""
        plane = log_dct(difference, self.rows, self.columns)
        if self.row_bands is not None and self.column_bands is not None:
            plane = self.row_bands @ plane @ self.column_bands.T
        return plane.flatten(1)


@final
class LogEnergyFeatures(nn.Module):
    """The logarithm of the energy that was removed at each frequency of small blocks, on average.

    Args:
        height: rows of the pictures.
        width: columns of the pictures.
        side: pixels of a block; fewer where the picture has fewer.
    """

    rows: Tensor
    columns: Tensor
    row_means: Tensor
    column_means: Tensor

    def __init__(self, height: int, width: int, side: int) -> None:
        super().__init__()
        sides = min(side, height), min(side, width)
        self.count = sides[0] * sides[1]
        for name, size, own in zip(("row", "column"), (height, width), sides, strict=True):
            transform, means = block_dct_matrix(size, own), block_mean_matrix(size, own)
            self.register_buffer(f"{name}s", transform, persistent=False)
            self.register_buffer(f"{name}_means", means, persistent=False)

    def forward(self, difference: Tensor) -> Tensor:
        """`(B, count)` of `difference = x - R(x)`, `(B, C, H, W)` float32 in [-1, 1]."""
        means = self.row_means, self.column_means
        return log_energy(difference, self.rows, self.columns, *means).flatten(1)


Features = LogDctFeatures | LogEnergyFeatures


@final
class Detector(nn.Module):
    """`score = w . k(standardise(features(x - R(x)))) + b`, flagged above `threshold`.

    `k` is the identity of the linear kernel, `w` the normal `(features,)`; or `k` is the vector of
    `exp(-gamma |x - s|^2)` over the support vectors `s`, and `w` their coefficients. All in float32
    and by plain matrix operations, so that the exported graph needs no operator that runs on the
    CPU only. Far from all its support vectors the score of the radial basis function falls to `b`.

    Built by `build_detector`.

    Args:
        spec: which kernel, and how many support vectors.
        features: maps `(B, C, H, W)` differences to `(B, features)`.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    threshold: Tensor
    support: Tensor
    gamma: Tensor

    def __init__(self, spec: DetectorSpec, features: Features) -> None:
        super().__init__()
        self.spec = spec
        self.features = features
        terms = spec.support_vectors if spec.kernel == "rbf" else features.count
        self.register_buffer("mean", torch.zeros(features.count))
        self.register_buffer("scale", torch.ones(features.count))
        self.register_buffer("weight", torch.zeros(terms))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("threshold", torch.zeros(()))
        if spec.kernel == "rbf":
            self.register_buffer("support", torch.zeros(terms, features.count))
            self.register_buffer("gamma", torch.ones(()))

    def forward(self, difference: Tensor) -> Tensor:
        """Scores `(B,)` of `difference = x - R(x)`; higher is more suspicious."""
        terms = (cast("Tensor", self.features(difference)) - self.mean) / self.scale
        if self.spec.kernel == "rbf":
            terms = radial_basis(terms, self.support, self.gamma)
        return terms @ self.weight + self.bias


def radial_basis(points: Tensor, support: Tensor, gamma: Tensor) -> Tensor:
    """`exp(-gamma |x - s|^2)`, `(B, S)`, of `points` `(B, F)` and `support` `(S, F)`.

    The squared distances come of one matrix product; rounding leaves them below zero by at most
    some 1e-5 for standardised features, which gamma makes 1e-7 or less of the result.
    """
    squares = points.square().sum(dim=1, keepdim=True) + support.square().sum(dim=1)
    return torch.exp(gamma * (2 * (points @ support.T) - squares))


def build_detector(spec: DetectorSpec, height: int, width: int) -> Detector:
    """Build the detector that `spec` describes for pictures of `height` x `width`, not fitted.

    Raises:
        InvalidArgumentError: the cell to pool over is larger than the pictures.
    """
    if spec.features == "energy":
        return Detector(spec, LogEnergyFeatures(height, width, spec.bands))
    if spec.features == "bands":
        edges = octave_edges(height, spec.bands), octave_edges(width, spec.bands)
        return Detector(spec, LogDctFeatures(height, width, edges))
    if spec.pool > min(height, width):
        raise InvalidArgumentError(
            f"Features of pictures of {height}x{width} are to be averaged over cells of "
            f"{spec.pool}x{spec.pool}; expected cells no larger than the pictures."
        )
    if spec.pool == 1:
        return Detector(spec, LogDctFeatures(height, width, None))
    edges = cell_edges(height, spec.pool), cell_edges(width, spec.pool)
    return Detector(spec, LogDctFeatures(height, width, edges))
