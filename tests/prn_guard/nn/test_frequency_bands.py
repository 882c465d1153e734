"""The bands tile all frequencies, and a matrix averages over each of them."""

import itertools

import numpy as np
import pytest
import torch

from prn_guard.nn.frequency_bands import averaging_matrix, cell_edges, octave_edges
from tests.tolerances import ORTHONORMAL, assert_close

SIDES = (1, 2, 7, 8, 9, 28, 32, 37, 53, 96, 224, 227, 331)


@pytest.mark.parametrize(
    ("size", "edges"),
    [
        (8, (0, 1, 2, 3, 4, 5, 6, 7, 8)),
        (28, (0, 1, 2, 3, 4, 5, 7, 10, 14, 20, 28)),
        (32, (0, 1, 2, 3, 4, 5, 7, 11, 15, 22, 32)),
        (224, (0, 1, 2, 4, 8, 14, 25, 43, 75, 130, 224)),
    ],
)
def test_ten_bands_of_usual_sides(size: int, edges: tuple[int, ...]) -> None:
    assert octave_edges(size, 10) == edges


@pytest.mark.parametrize("size", SIDES)
@pytest.mark.parametrize("count", [1, 2, 8, 10, 32])
def test_bands_cover_every_frequency_once_and_widen(size: int, count: int) -> None:
    edges = octave_edges(size, count)
    widths = np.diff(edges)
    assert (edges[0], edges[-1], len(widths)) == (0, size, min(count, size))
    assert widths.min() >= 1
    assert np.diff(widths).min(initial=0) >= -1  # by rounding
    covered = averaging_matrix(edges, size)
    assert (covered > 0).sum(dim=0).tolist() == [1] * size


@pytest.mark.parametrize(
    ("size", "side", "edges"),
    [(8, 1, tuple(range(9))), (8, 3, (0, 3, 6)), (9, 3, (0, 3, 6, 9)), (7, 7, (0, 7))],
)
def test_cells_are_whole(size: int, side: int, edges: tuple[int, ...]) -> None:
    assert cell_edges(size, side) == edges


@pytest.mark.parametrize("size", SIDES)
def test_a_row_of_the_matrix_is_a_mean(size: int) -> None:
    edges = octave_edges(size, 10)
    matrix = averaging_matrix(edges, size)
    assert matrix.dtype == torch.float32
    assert matrix.min() >= 0
    values = np.random.default_rng(0).uniform(-1, 1, size)
    means = [values[begin:end].mean() for begin, end in itertools.pairwise(edges)]
    assert_close(matrix @ torch.from_numpy(values).float(), means, ORTHONORMAL)
