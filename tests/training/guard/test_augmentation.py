"""Varied perturbations: each operation against NumPy, the ball, and how often each happens."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.reference import perturbation_variation as reference
from tests.tolerances import BALL, VARIATION, assert_close
from training.attacks.norms import Norm, norm_of, project
from training.guard.augmentation import (
    LARGEST_FACTOR,
    SMALLEST_FACTOR,
    Variation,
    draw_variation,
    mixtures,
    shifted,
    varied,
)

SHAPE = (3, 6, 8)
MEMBERS, COUNT = 5, 60
EPSILON: dict[Norm, float] = {"linf": 0.1, "l2": 0.7}


def _bank(norm: Norm) -> Tensor:
    drawn = torch.randn(MEMBERS, *SHAPE, generator=torch.Generator().manual_seed(1))
    return project(drawn * 0.08, norm, EPSILON[norm])


def _variation(count: int = COUNT, *, seed: int = 2) -> Variation:
    return draw_variation(count, MEMBERS, SHAPE[1:], torch.Generator().manual_seed(seed))


def _chosen(count: int = COUNT) -> Tensor:
    return torch.randint(MEMBERS, (count,), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_varied_perturbations_are_those_of_numpy_for_the_same_draws(norm: Norm) -> None:
    bank, chosen, drawn = _bank(norm), _chosen(), _variation()
    found = varied(bank, chosen, drawn, norm=norm, epsilon=EPSILON[norm])
    expected = [
        reference.varied(
            bank, int(chosen[number]), int(drawn.others[number]), float(drawn.shares[number]),
            norm=norm, epsilon=EPSILON[norm], is_reversed=bool(drawn.reversed[number]),
            offsets=(int(drawn.offsets[number, 0]), int(drawn.offsets[number, 1])),
            factor=float(drawn.factors[number]),
        )
        for number in range(COUNT)
    ]  # fmt: skip
    assert_close(found, np.stack(expected), VARIATION)
    assert 5 < int((drawn.shares < 1).sum()) < COUNT - 5


def test_shifts_are_cyclic_each_by_its_own_offset() -> None:
    images = torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(1))
    offsets = torch.stack(
        [torch.randint(side, (40,), generator=torch.Generator().manual_seed(5)) for side in (6, 8)],
        dim=1,
    )
    found = shifted(images, offsets)
    for number, (down, right) in enumerate(offsets.tolist()):
        assert np.array_equal(found[number], reference.shifted(images[number], down, right))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_mixtures_are_those_of_numpy_in_the_ball_and_dense(norm: Norm) -> None:
    bank, epsilon = _bank(norm), EPSILON[norm]
    first, second = bank[_chosen()], bank[_chosen().flip(0)]
    shares = torch.rand(COUNT, generator=torch.Generator().manual_seed(4))
    found = mixtures(first, second, shares, norm=norm, epsilon=epsilon)
    expected = [
        reference.mixture(first[number], second[number], float(shares[number]), norm, epsilon)
        for number in range(COUNT)
    ]
    assert_close(found, np.stack(expected), VARIATION)
    assert float(norm_of(found, norm).max()) <= epsilon + BALL.absolute
    weaker = torch.minimum(norm_of(first, "l2"), norm_of(second, "l2"))
    assert bool((norm_of(found, "l2") >= 0.95 * weaker).all())


def test_a_member_mixed_with_its_reverse_may_vanish_and_stays_finite() -> None:
    member = _bank("linf")[:1]
    found = mixtures(member, -member, torch.tensor([0.5]), norm="linf", epsilon=0.1)
    assert torch.equal(found, torch.zeros_like(member))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_all_stay_in_the_larger_ball(norm: Norm) -> None:
    found = varied(_bank(norm), _chosen(), _variation(), norm=norm, epsilon=EPSILON[norm])
    assert float(norm_of(found, norm).max()) <= LARGEST_FACTOR * EPSILON[norm] + BALL.absolute


def test_each_operation_happens_as_often_as_stated() -> None:
    count = 4000
    drawn = _variation(count)
    for happened, probability in (
        (drawn.shares < 1, 0.4),
        (drawn.reversed, 0.25),
        (drawn.offsets.any(dim=1), 0.3 * (1 - 1 / 48)),
    ):
        error = abs(float(happened.double().mean()) - probability)
        assert error < 4 * np.sqrt(probability * (1 - probability) / count)
    assert SMALLEST_FACTOR <= float(drawn.factors.min()) < SMALLEST_FACTOR + 0.01
    assert LARGEST_FACTOR - 0.01 < float(drawn.factors.max()) <= LARGEST_FACTOR
    assert int(drawn.others.max()) == MEMBERS - 1
    assert drawn.offsets.amax(dim=0).tolist() == [5, 7]


def test_a_generator_repeats_its_draws_and_another_does_not() -> None:
    one, same, other = _variation(), _variation(), _variation(seed=9)
    assert all(torch.equal(value, vars(same)[name]) for name, value in vars(one).items())
    assert not any(torch.equal(value, vars(other)[name]) for name, value in vars(one).items())
