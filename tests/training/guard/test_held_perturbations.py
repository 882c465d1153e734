"""Held perturbations step as a whole attack does, stay in the ball, begin anew, and resume."""

import pytest
import torch
from torch import Tensor

from tests.tolerances import BALL, WALK, assert_close
from tests.training.small import SHAPE
from training.attacks.norms import Norm, norm_of
from training.guard.held_perturbations import HELD, LIFE, MOMENTUM, HeldPerturbations

EPSILON = 0.1
CPU = torch.device("cpu")


def _held(norm: Norm = "linf", *, seed: int = 0, kept: Tensor | None = None) -> HeldPerturbations:
    return HeldPerturbations(SHAPE, norm=norm, epsilon=EPSILON, seed=seed, kept=kept, device=CPU)


def _gradient(iteration: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1000 + iteration))


def _run(held: HeldPerturbations, begin: int, end: int, *, steady: bool = False) -> None:
    for iteration in range(begin, end):
        held.ascend(iteration, _gradient(iteration % HELD if steady else iteration))


def test_they_begin_at_different_places_in_the_ball() -> None:
    state, means = _held().state
    assert state.shape == (HELD, *SHAPE)
    assert not means.any()
    assert float(state.abs().max()) <= EPSILON
    assert len(torch.unique(state.flatten(1), dim=0)) == HELD
    assert torch.equal(_held().state[0], state)
    assert not torch.equal(_held(seed=1).state[0], state)
    assert_close(norm_of(_held("l2").state[0], "l2"), [EPSILON] * HELD, BALL)


def test_each_iteration_takes_the_next_and_moves_that_one_alone() -> None:
    held = _held()
    for iteration in range(2 * HELD + 1):
        before = held.state[0]
        taken = held.at(iteration)
        assert taken.requires_grad
        assert torch.equal(taken.detach(), before[iteration % HELD])
        held.ascend(iteration, _gradient(iteration))
        assert torch.equal(taken.detach(), before[iteration % HELD])  # a copy
        moved = [not torch.equal(*pair) for pair in zip(held.state[0], before, strict=True)]
        assert moved == [place == iteration % HELD for place in range(HELD)]


def test_every_other_one_evades() -> None:
    for iteration in range(2 * HELD):
        assert _held().evades(iteration) == (iteration % HELD % 2 == 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_steps_follow_the_running_mean_of_gradients_and_stay_in_the_ball(norm: Norm) -> None:
    """Half an epsilon at first, a tenth of that at last; no gradient counts by its size."""
    held = _held(norm)
    means = torch.zeros(HELD, *SHAPE, dtype=torch.float64)
    for age in range(LIFE - 1):
        for place in range(HELD):
            iteration = age * HELD + place
            before, gradient = held.state[0, place].double(), _gradient(iteration).double()
            held.ascend(iteration, (1 + iteration % 7) * gradient.float())
            latest = gradient / gradient.abs().mean()
            means[place] = MOMENTUM * means[place] + (1 - MOMENTUM) * latest
            size = 0.5 * EPSILON * 0.1 ** (age / LIFE)
            if norm == "linf":
                expected = (before + size * means[place].sign()).clamp(-EPSILON, EPSILON)
            else:
                moved = before + size * means[place] / means[place].norm()
                expected = moved * min(1.0, EPSILON / float(moved.norm()))
            assert_close(held.state[0, place], expected, WALK)
        assert float(norm_of(held.state[0], norm).max()) <= EPSILON + BALL.absolute


def test_each_begins_anew_after_its_life_elsewhere_every_time() -> None:
    held = _held()
    starts = [held.state[0]]
    for life in range(3):
        first = life * LIFE * HELD
        _run(held, first, first + (LIFE - 1) * HELD, steady=True)
        corners = EPSILON * torch.stack([_gradient(place) for place in range(HELD)]).sign()
        assert_close(held.state[0], corners, BALL)
        _run(held, first + (LIFE - 1) * HELD, first + LIFE * HELD)
        assert float((held.state[0] == corners).double().mean()) < 0.01
        assert not held.state[1].any()
        starts.append(held.state[0])
    everywhere = torch.cat(starts).flatten(1)
    assert len(torch.unique(everywhere, dim=0)) == 4 * HELD
    assert float(everywhere.abs().max()) <= EPSILON


@pytest.mark.parametrize("stop", [1, HELD * (LIFE - 1), HELD * (LIFE - 1) + 1, HELD * LIFE + 3])
def test_what_was_kept_goes_on_bit_by_bit(stop: int) -> None:
    straight, stopped, last = _held(), _held(), HELD * LIFE + 3 * HELD
    _run(straight, 0, last)
    _run(stopped, 0, stop)
    resumed = _held(kept=stopped.state.clone())
    _run(resumed, stop, last)
    assert torch.equal(resumed.state, straight.state)
    assert not torch.equal(stopped.state, straight.state)
