"""Universal random search: the ball, the schedule, and what is kept."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from tests.tolerances import BALL, assert_close
from training.attacks.norms import Norm, norm_of
from training.evaluation.informed.random_search import (
    random_signs,
    square_side,
    to_ball,
    universal_random_search,
)

SHAPE = (3, 10, 12)
WISH = random_signs((3, 1, 1), torch.Generator().manual_seed(9)).expand(SHAPE)


def _right(perturbation: Tensor) -> int:
    """How many values differ in sign from those wished for."""
    return int((perturbation.sign() != WISH).sum())


def _search(seed: int = 0, norm: Norm = "linf", steps: int = 300) -> tuple[Tensor, list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return universal_random_search(
        _right, SHAPE, norm=norm, epsilon=0.1, steps=steps, generator=generator
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_finds_what_squares_can_make_and_never_goes_back(norm: Norm) -> None:
    perturbation, counts = _search(norm=norm)
    assert len(counts) == 301
    assert (np.diff(counts) <= 0).all()
    assert counts[-1] == _right(perturbation)
    assert counts[-1] < 0.5 * counts[0]
    assert_close(norm_of(perturbation, norm), 0.1, BALL)
    assert len(perturbation.abs().unique()) == 1


def test_it_repeats_under_its_generator() -> None:
    assert torch.equal(_search(1)[0], _search(1)[0])
    assert not torch.equal(_search(1)[0], _search(2)[0])


def test_it_starts_from_vertical_stripes() -> None:
    asked: list[Tensor] = []

    def right(perturbation: Tensor) -> int:
        asked.append(perturbation)
        return 0

    universal_random_search(
        right, SHAPE, norm="linf", epsilon=0.1, steps=3, generator=torch.Generator()
    )
    assert torch.equal(asked[0], asked[0][:, :1].expand(SHAPE))
    assert asked[0].unique().tolist() == pytest.approx([-0.1, 0.1])


def test_proposals_without_effect_are_kept() -> None:
    asked: list[Tensor] = []

    def right(perturbation: Tensor) -> int:
        asked.append(perturbation)
        return 5

    found, _ = universal_random_search(
        right, SHAPE, norm="linf", epsilon=0.1, steps=4, generator=torch.Generator()
    )
    assert torch.equal(found, asked[-1])


def test_squares_shrink_by_halves_of_the_picture() -> None:
    sides = [square_side(step / 1000, 32, 32) for step in range(1000)]
    assert sides[0] == round(math.sqrt(0.8 * 1024))
    assert (np.diff(sides) <= 0).all()
    assert sides[999] == round(math.sqrt(0.8 * 1024 / 2**9))
    assert square_side(0.0, 4, 100) == 4
    assert square_side(0.99, 4, 4) == 1


def test_patterns_keep_their_signs() -> None:
    pattern = random_signs(SHAPE, torch.Generator().manual_seed(0))
    assert_close(to_ball(pattern, "l2", 0.3), pattern * 0.3 / math.sqrt(360), BALL)


def test_an_impossible_ball_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="epsilon"):
        universal_random_search(
            _right, SHAPE, norm="linf", epsilon=10, steps=1, generator=torch.Generator()
        )
