"""Frequency bands: averages over cells of a DCT plane, as two matrix products.

A plane `(H, W)` is averaged by `rows @ plane @ columns.T`, where row k of either matrix holds
`1 / width` over the frequencies of band k: the cells are the products of a vertical and a
horizontal band, so that orientation is kept.

The bands of `octave_edges` are as wide, against their frequency, as one another. Source: the power
spectra of natural pictures fall off as a power of the frequency (Field, "Relations between the
statistics of natural images and the response properties of cortical cells", 1987), so that within
such a band their logarithm varies by the same amount at every frequency. What a wide band hardly
shows is a single sharp peak, such as a checkerboard's, because it is one of many logarithms in the
mean; the whole plane shows it.
"""

import itertools

import torch
from torch import Tensor


def octave_edges(size: int, count: int) -> tuple[int, ...]:
    """Edges of `min(count, size)` bands that cover the frequencies 0..size-1.

    The widths grow geometrically, from single frequencies on: band k begins at the rounded
    `(size + 1) ** (k / count) - 1`, or at k where that is more.
    """
    count = min(count, size)
    return tuple(max(k, round((size + 1) ** (k / count) - 1)) for k in range(count + 1))


def cell_edges(size: int, side: int) -> tuple[int, ...]:
    """Edges of the whole cells of `side` frequencies; those that are left over belong to none."""
    return tuple(range(0, size - size % side + 1, side))


def averaging_matrix(edges: tuple[int, ...], size: int) -> Tensor:
    """The matrix `(bands, size)`, float32, that averages over the bands between `edges`."""
    matrix = torch.zeros(len(edges) - 1, size, dtype=torch.float64)
    for band, (begin, end) in enumerate(itertools.pairwise(edges)):
        matrix[band, begin:end] = 1 / (end - begin)
    return matrix.float()
