"""Update rules and step sizes against NumPy and against torch's Adam."""

import numpy as np
import pytest
import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from tests.reference import updates as reference
from tests.tolerances import BALL, SCHEDULE, UPDATE, assert_close
from tests.training.small import everything, gray_pictures
from training.attacks.engine import Rule, Schedule, ascend, update_rule
from training.attacks.norms import Norm, norm_of, project

RULES: list[Rule] = ["sign-pgd", "sgd", "momentum", "adam"]
WIDE, SHORT = 1000.0, Schedule(steps=10, travel=1e-3, decay=0.975)
"""A ball that ten steps, together of length 1, never reach."""


def _gradients() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 4, 5, generator=generator) * 10**-k for k in range(10)]


def _moved(rule: Rule, norm: Norm) -> Tensor:
    update = update_rule(rule, norm=norm, epsilon=WIDE, schedule=SHORT)
    point = torch.zeros(1, 4, 5)
    for step, gradient in enumerate(_gradients()):
        point = update(point, gradient, step)
    return point


@pytest.mark.parametrize("schedule", [Schedule(travel=80.0, decay=0.975), Schedule(7, 4.0, 0.5)])
def test_step_sizes_are_geometric_and_sum_to_the_travel(schedule: Schedule) -> None:
    sizes = [schedule.size(step, 0.3) for step in range(schedule.steps)]
    assert schedule.travel is not None
    assert schedule.decay is not None
    oracle = reference.step_sizes(schedule.steps, schedule.travel, schedule.decay, 0.3)
    assert_close(sizes, oracle, SCHEDULE)
    assert_close(sum(sizes), schedule.travel * 0.3, SCHEDULE)


@pytest.mark.parametrize("steps", [2, 10, 250])
def test_by_default_steps_fall_evenly_from_two_epsilons_to_a_fiftieth(steps: int) -> None:
    sizes = np.array([Schedule(steps=steps).size(step, 0.3) for step in range(steps)])
    assert_close(sizes[[0, -1]], [0.6, 0.006], SCHEDULE)
    assert_close(sizes[1:] / sizes[:-1], np.full(steps - 1, 0.01 ** (1 / (steps - 1))), SCHEDULE)


def test_a_single_step_is_two_epsilons_long() -> None:
    assert_close(Schedule(steps=1).size(0, 0.3), 0.6, SCHEDULE)


def test_steps_without_decay_are_all_alike() -> None:
    schedule = Schedule(steps=8, travel=4.0, decay=1.0)
    assert_close([schedule.size(step, 0.1) for step in range(8)], [0.05] * 8, SCHEDULE)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rules_step_as_written_down(rule: Rule, norm: Norm) -> None:
    sizes = reference.step_sizes(10, SHORT.travel, SHORT.decay, WIDE)
    oracle = reference.run(rule, norm, torch.zeros(1, 4, 5), _gradients(), sizes)
    assert_close(_moved(rule, norm), oracle, UPDATE)


def test_adam_is_torchs_adam_with_the_schedules_rates() -> None:
    point = torch.zeros(1, 4, 5, requires_grad=True)
    adam = torch.optim.Adam([point], betas=(0.9, 0.999), eps=1e-12, maximize=True)
    for step, gradient in enumerate(_gradients()):
        adam.param_groups[0]["lr"] = SHORT.size(step, WIDE)
        point.grad = gradient.clone()
        adam.step()
    assert_close(_moved("adam", "linf"), point.detach(), UPDATE)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_step_ends_in_the_ball(rule: Rule, norm: Norm) -> None:
    update = update_rule(rule, norm=norm, epsilon=0.1, schedule=Schedule(10, 80.0, 0.9))
    free = update_rule(rule, norm=norm, epsilon=WIDE, schedule=Schedule(10, 80.0 * 0.1 / WIDE, 0.9))
    point = torch.zeros(1, 4, 5)
    for step, gradient in enumerate(_gradients()):
        beyond = free(point, gradient, step)
        assert float(norm_of(beyond, norm)) > 0.1
        point = update(point, gradient, step)
        assert float(norm_of(point, norm)) <= 0.1 + BALL.absolute
        assert_close(point, project(beyond, norm, 0.1), BALL)


def test_two_attacks_do_not_share_moments() -> None:
    assert torch.equal(_moved("adam", "linf"), _moved("adam", "linf"))


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="rule is 'lion'; expected"):
        update_rule("lion", norm="linf", epsilon=0.1, schedule=Schedule())  # type: ignore[arg-type]


def test_the_loop_hands_over_the_drawn_pictures_their_positions_and_the_place() -> None:
    known, start = gray_pictures(30), torch.full((1, 12, 12), 0.01)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    told: list[tuple[int, int]] = []

    def objective(images: Tensor, positions: Tensor, perturbation: Tensor) -> Tensor:
        seen.append((images, positions, perturbation.detach().clone()))
        return (perturbation * 3).sum()

    result = ascend(
        objective,
        known,
        start,
        update=lambda point, gradient, step: point + gradient * (step + 1),
        steps=3,
        batch_size=8,
        generator=torch.Generator().manual_seed(0),
        on_step=lambda done, total: told.append((done, total)),
    )
    for images, positions, _ in seen:
        assert torch.equal(images, everything(known)[positions])
    assert len({tuple(positions.tolist()) for _, positions, _ in seen}) == 3
    moved = [float((place - start).mean()) for _, _, place in seen]
    assert moved == pytest.approx([0, 3, 9], abs=1e-5)
    assert float((result - start).mean()) == pytest.approx(18, abs=1e-5)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(start, torch.full((1, 12, 12), 0.01))
    assert not result.requires_grad
    assert not start.requires_grad
