"""The order that attacks of three kinds must have, and that its verdict can fail."""

import math

import numpy as np
import pytest
import torch

from tests.tolerances import BALL, assert_close
from training.evaluation.informed.masking import (
    ACCURACY,
    at_least_as_strong,
    corner_noise,
    strongest,
    verdict,
)
from training.evaluation.metrics import Figure, proportion

SHAPE = (3, 8, 8)


def _left(right: int, of: int = 1000) -> Figure:
    return proportion(np.arange(of) < right)


@pytest.mark.parametrize(
    ("white", "transfer", "black", "found"),
    [
        (300, 800, 900, (True, True, True)),
        (300, 300, 300, (True, True, True)),
        (310, 300, 900, (True, True, True)),  # by chance
        (900, 300, 900, (False, True, True)),
        (300, 900, 400, (True, True, False)),
        (900, 900, 400, (True, False, False)),
        (800, 600, 300, (False, False, False)),
    ],
)
def test_the_verdict_falls_with_any_pair_out_of_order(
    white: int, transfer: int, black: int, found: tuple[bool, bool, bool]
) -> None:
    result = verdict(_left(white), _left(transfer), _left(black))
    assert result["white_box_at_least_transfer"] == found[0]
    assert result["white_box_at_least_black_box"] == found[1]
    assert result["transfer_at_least_black_box"] == found[2]
    assert result["ordered"] == all(found)


def test_chance_is_the_interval_of_the_stronger() -> None:
    one = _left(500)
    assert at_least_as_strong(one, _left(math.ceil(1000 * one["low"])))
    assert not at_least_as_strong(one, _left(math.floor(1000 * one["low"])))


def test_the_strongest_leaves_the_least_accuracy() -> None:
    rows = [{"name": name, ACCURACY: _left(right)} for name, right in (("a", 5), ("b", 3))]
    assert strongest(rows)["name"] == "b"


@pytest.mark.parametrize(("norm", "size"), [("linf", 0.1), ("l2", 0.1 / math.sqrt(192))])
def test_noise_lies_in_the_corners(norm: str, size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = corner_noise(SHAPE, norm, 0.1, generator)  # type: ignore[arg-type]
    assert_close(noise.abs(), np.full(SHAPE, size), BALL)
    assert 60 < int((noise > 0).sum()) < 132
