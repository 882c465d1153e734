"""The 2-D discrete cosine transform of gray pictures, as two matrix products.

Source: PRN paper, section 4.3: `F = log|DCT2(gray(x - R(x)))|`. The transform is the orthonormal
DCT-II; gray by the ITU-R 601 weights. Departures: a floor is added inside the logarithm, so that
coefficients of exactly zero have a finite feature; `log_energy` reads all channels, because a
perturbation whose gray cancels is invisible to the paper's feature, and transforms small blocks.
What is removed from a clean picture lies along its edges; a universal perturbation is everywhere,
also where the picture is flat. The mean over blocks of logarithms tells one from the other, where
the spectrum of the whole picture, which sums over places first, cannot.
"""

import math

import torch
from torch import Tensor

LOG_FLOOR = 1e-3
"""About a quarter of one 8-bit step in a single coefficient: below it lies rounding noise."""

_ITU_R_601 = (0.299, 0.587, 0.114)


def dct_matrix(size: int) -> Tensor:
    """Orthonormal DCT-II matrix `(size, size)`, float32: row k holds frequency k."""
    frequency = torch.arange(size, dtype=torch.float64)[:, None]
    position = torch.arange(size, dtype=torch.float64)[None, :]
    matrix = torch.cos(math.pi * (2 * position + 1) * frequency / (2 * size))
    matrix *= math.sqrt(2.0 / size)
    matrix[0] /= math.sqrt(2.0)
    return matrix.float()


def block_begins(size: int, side: int) -> tuple[int, ...]:
    """Where blocks of `side` begin that cover `size`; the last one overlaps where it must."""
    return tuple(min(begin, size - side) for begin in range(0, size, side))


def block_dct_matrix(size: int, side: int) -> Tensor:
    """The orthonormal DCT-II of each block of `side`, one after the other, `(N * side, size)`."""
    begins, block = block_begins(size, side), dct_matrix(side)
    matrix = torch.zeros(len(begins), side, size)
    for number, begin in enumerate(begins):
        matrix[number, :, begin : begin + side] = block
    return matrix.flatten(0, 1)


def block_mean_matrix(size: int, side: int) -> Tensor:
    """The mean over blocks of each frequency, `(side, blocks * side)`."""
    count = len(block_begins(size, side))
    return torch.eye(side).repeat(1, count) / count


def gray(images: Tensor) -> Tensor:
    """`(B, H, W)` luminance of `(B, 1 or 3, H, W)` images or differences of images."""
    if images.shape[1] == 1:
        return images[:, 0]
    red, green, blue = _ITU_R_601
    return red * images[:, 0] + green * images[:, 1] + blue * images[:, 2]


def log_dct(difference: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Log-magnitude DCT features `(B, H, W)` of what the rectifier removed.

    Args:
        difference: `x - R(x)`, `(B, C, H, W)` float32 in [-1, 1].
        rows: `dct_matrix(H)`.
        columns: `dct_matrix(W)`.
    """
    coefficients = rows @ gray(difference) @ columns.T
    return torch.log(coefficients.abs() + LOG_FLOOR)


def log_energy(
    difference: Tensor, rows: Tensor, columns: Tensor, row_means: Tensor, column_means: Tensor
) -> Tensor:
    """The mean over blocks of half the logarithm of the energy of all channels: `(B, V, U)`.

    Args:
        difference: `x - R(x)`, `(B, C, H, W)` float32 in [-1, 1].
        rows: `block_dct_matrix(H, V)`.
        columns: `block_dct_matrix(W, U)`.
        row_means: `block_mean_matrix(H, V)`.
        column_means: `block_mean_matrix(W, U)`.
    """
    squares = (rows @ difference @ columns.T).square()
    # Not `mean`: ReduceMean takes its axes in another form below opset 18, ReduceSum does not.
    energies = squares.sum(dim=1) / squares.shape[1]
    return row_means @ (0.5 * torch.log(energies + LOG_FLOOR**2)) @ column_means.T
