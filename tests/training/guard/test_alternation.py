"""Rounds: when they end, what they keep, what is trained on, and that they can be interrupted."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prn_guard.errors import DataError
from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.nn.rectifier import RectifierSpec, build_rectifier
from prn_guard.nn.target import state_digest
from tests.tolerances import SCHEDULE, assert_close
from tests.training.small import SHAPE, pictures, trained_target
from training.guard import alternation
from training.guard.alternation import COOLING, PATIENCE, RATE_SHARE, Alternation, Attempt, Rounds
from training.guard.fit_detector import scores
from training.guard.guard_attack import LENGTHS, PER_ROUND, GuardAttack
from training.guard.joint_detector import JointDetector
from training.guard.recipe import Recipe
from training.guard.rectifier_batches import RectifierBatch
from training.guard.rectifier_training import RectifierTraining

RECIPE = Recipe(
    epochs=1, learning_rate=0.004, batch_size=10, detection=1.0, adversarial_share=0.4,
    rounds=3, round_iterations=4, attack_steps=2,
)  # fmt: skip
EPSILON = 0.15


class _InterruptedError(Exception):
    pass


def _bank() -> Tensor:
    return 0.1 * torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1)).sign()


def _rounds(
    recipe: Recipe = RECIPE, *, judging: int = 60, weights: int = 0, rate: float = 0.01
) -> Rounds:
    generator = torch.Generator().manual_seed(weights)
    rectifier = build_rectifier(RectifierSpec(channels=1, width=4, blocks=1), generator=generator)
    joint = JointDetector(*SHAPE[1:])
    return Rounds(
        training=RectifierTraining(rectifier, trained_target(), recipe=recipe, joint=joint),
        joint=joint,
        pictures=pictures(35, seed=5),
        judging=pictures(judging, seed=6),
        bank=_bank(),
        norm="linf",
        epsilon=EPSILON,
        false_positive_rate=rate,
        seed=0,
    )


def _history(*worst: float) -> Alternation:
    """Rounds whose strongest attack, each time another one, left so much."""
    attempts = []
    for number, kept in enumerate(worst):
        all_kept = [min(1.0, kept + 0.3)] * PER_ROUND
        all_kept[number % PER_ROUND] = kept
        attempts += [
            Attempt(round=number, attack="evade", kept=one, flagged=0.5) for one in all_kept
        ]
    return Alternation(found=torch.zeros(len(attempts), *SHAPE), attempts=attempts)


@pytest.mark.parametrize(
    ("worst", "ends"),
    [
        ((), False),
        ((0.5,) * (PATIENCE + 2), False),
        ((0.5,) * (PATIENCE + 3), True),
        ((0.5,) * 3 + (0.49,) * PATIENCE, True),
        ((0.5,) * 3 + (0.504,) * PATIENCE, True),
        ((0.5,) * 3 + (0.506,) * PATIENCE, False),
        # One round, or two, that held better are no gain: a cycle of all lengths must.
        ((0.5,) * 3 + (0.9, 0.9, 0.2) * PATIENCE, True),
        ((0.5,) * 3 + (0.4,) * 2 + (0.61,) * 3, False),
        # Short attacks never do harm, and long ones less and less.
        (tuple(x for k in range(10) for x in (0.9, 0.4 + 0.05 * k, 0.95)), False),
        (tuple(0.02 * number for number in range(30)), False),
    ],
)
def test_rounds_gain_nothing_when_the_last_held_no_better(
    worst: tuple[float, ...], *, ends: bool
) -> None:
    history = _history(*worst)
    assert history.gains_nothing() is ends
    assert [history.worst(number) for number in range(len(worst))] == list(worst)


def _told(rounds: Rounds, **options: Any) -> tuple[Alternation, list[tuple[int, int, int]]]:
    told: list[tuple[int, int, int]] = []
    state = rounds.run(
        on_round=lambda done, most, so_far: told.append((done, most, len(so_far.found))), **options
    )
    return state, told


def test_every_round_adds_what_its_attacks_found() -> None:
    rounds = _rounds()
    before, target = state_digest(rounds.training.trained), state_digest(rounds.training.target)
    state, told = _told(rounds)
    assert told == [(done, 3, PER_ROUND * done) for done in (1, 2, 3)]
    assert [one.round for one in state.attempts] == [0] * 4 + [1] * 4 + [2] * 4
    assert [one.attack for one in state.attempts[3::4]] == [
        "expected guard", "rectifier", "expected guard",
    ]  # fmt: skip
    assert len(torch.unique(state.found.flatten(1), dim=0)) == 3 * PER_ROUND
    assert float(state.found.abs().max()) <= EPSILON + 1e-6
    assert state_digest(rounds.training.trained) != before
    assert state_digest(rounds.training.target) == target
    assert not any(module.training for module in rounds.training.trained.modules())


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_interrupted_alternation_ends_bit_by_bit_alike(tmp_path: Path, stop: int) -> None:
    def interrupt(done: int, _: int, __: Alternation) -> None:
        if done == stop:
            raise _InterruptedError

    path = tmp_path / "rounds.safetensors"
    straight, stopped, resumed = _rounds(), _rounds(), _rounds(weights=9)
    expected, _ = _told(straight)
    with pytest.raises(_InterruptedError):
        stopped.run(checkpoint=path, on_round=interrupt)
    found, told = _told(resumed, checkpoint=path)
    assert [done for done, _, __ in told] == list(range(stop + 1, 4))
    assert state_digest(resumed.training.trained) == state_digest(straight.training.trained)
    assert torch.equal(found.found, expected.found)
    assert found.attempts == expected.attempts
    assert not resumed.training.trained.training


def _never_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuardAttack, "run", lambda *_: ("evade", _bank()[0]))
    monkeypatch.setattr(alternation, "agreement", lambda *_: torch.tensor([0.5, 0.5]))


def _rates(rounds: Rounds) -> list[float]:
    rates: list[float] = []
    step = rounds.training.step

    def watched(batch: RectifierBatch, *, rate: float) -> float:
        rates.append(rate)
        return step(batch, rate=rate)

    rounds.training.step = watched  # type: ignore[method-assign]
    return rates


KNOWN = PATIENCE + len(LENGTHS)
"""Rounds of one and the same result after which the end is known."""


@pytest.mark.parametrize("stop", [None, KNOWN - 1, KNOWN, KNOWN + 2])
def test_rounds_that_gain_nothing_cool_down_and_end_also_when_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int | None
) -> None:
    """When the end is known, COOLING rounds follow, in which the rate falls to 0."""
    _never_better(monkeypatch)
    recipe, path = replace(RECIPE, rounds=40, round_iterations=2), tmp_path / "rounds.safetensors"

    def interrupt(done: int, _: int, __: Alternation) -> None:
        if done == stop:
            raise _InterruptedError

    rates = []
    if stop is not None:
        stopped = _rounds(recipe)
        rates += [_rates(stopped)]
        with pytest.raises(_InterruptedError):
            stopped.run(checkpoint=path, on_round=interrupt)
    rounds = _rounds(recipe)
    rates += [_rates(rounds)]
    state, told = _told(rounds, checkpoint=path)
    known, last = KNOWN, KNOWN + COOLING
    assert [most for done, most, _ in told if done < known] == [40] * (known - 1 - (stop or 0))
    assert {most for done, most, _ in told if done >= known} == {last}
    assert told[-1][0] == last
    assert len(state.found) == PER_ROUND * last
    steady = [RATE_SHARE * recipe.learning_rate] * 2 * known
    falling = [steady[0] * (1 - step / (2 * COOLING)) for step in range(2 * COOLING)]
    assert_close(list(itertools.chain(*rates)), steady + falling, SCHEDULE)


@pytest.mark.parametrize("most", [KNOWN, KNOWN + 2])
def test_the_end_is_never_put_off(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    _never_better(monkeypatch)
    _, told = _told(_rounds(replace(RECIPE, rounds=most, round_iterations=1)))
    assert told[-1][:2] == (most, most)


@pytest.mark.parametrize(("judging", "rate"), [(20, 0.01), (60, 0.01), (300, 0.01), (60, 0.25)])
def test_the_guard_that_is_attacked_is_the_one_in_training_with_a_threshold_of_its_own(
    monkeypatch: pytest.MonkeyPatch, judging: int, rate: float
) -> None:
    recipe = replace(RECIPE, rounds=1)
    rounds, attacked = _rounds(recipe, judging=judging, rate=rate), []

    def run(attack: GuardAttack, guarded: GuardedClassifier, number: int) -> tuple[str, Tensor]:
        assert guarded.rectifier is rounds.training.rectifier
        assert not guarded.rectifier.training
        clean = scores(guarded.rectifier, guarded.detector, rounds.judging).double().numpy()
        assert_close(guarded.detector.bias, rounds.joint.bias.detach(), SCHEDULE)
        expected = np.sort(clean)[math.ceil((1 - rate) * (judging - 1))]
        assert float(guarded.detector.threshold) == expected
        attacked.append(number)
        return "evade", _bank()[0]

    monkeypatch.setattr(GuardAttack, "run", run)
    rounds.run()
    assert attacked == list(range(PER_ROUND))


def test_part_of_each_mini_batch_is_under_what_was_found_harmful_and_recent_ones_more_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each attack finds a perturbation of one value, by which it is known again."""
    count = 4 * PER_ROUND
    values = iter(torch.linspace(0.05, 0.149, count).tolist())
    harm = iter(torch.linspace(0.9, 0.2, count).tolist())
    monkeypatch.setattr(alternation, "agreement", lambda *_: torch.tensor([next(harm), 0.5]))
    monkeypatch.setattr(GuardAttack, "run", lambda *_: ("evade", torch.full(SHAPE, next(values))))
    recipe = replace(RECIPE, rounds=4, round_iterations=300, perturbed_share=0.0)
    rounds, batches = _rounds(recipe), []

    def step(batch: RectifierBatch, *, rate: float) -> float:
        batches.append(batch)
        return 0.0

    rounds.training.step = step  # type: ignore[method-assign]
    state = rounds.run()
    assert len(batches) == 4 * 300
    known = state.found[:, 0, 0, 0]
    for number in (0, 3):
        counts = torch.zeros(count)
        for batch in batches[300 * number : 300 * number + 300]:
            assert batch.is_perturbed.tolist() == [True] * 4 + [False] * 6
            added = (batch.seen - batch.clean)[:4].flatten(1).median(dim=1).values
            places = (added[:, None] - known).abs().argmin(dim=1)
            counts += torch.bincount(places, minlength=count)
        there = PER_ROUND * (number + 1)
        harmful = 1.1 - torch.linspace(0.9, 0.2, count)[:there]
        shares = harmful * torch.linspace(0.3, 1.0, there)
        shares = shares / shares.sum()
        found = counts / counts.sum()
        assert not counts[there:].any()
        spread = (shares * (1 - shares) / 1200).sqrt()
        assert bool(((found[:there] - shares).abs() < 4 * spread).all())


def test_every_round_goes_on_through_the_pictures_where_the_last_one_stopped() -> None:
    """35 pictures are three mini-batches of 10: rounds of 4 do not begin with an epoch."""
    rounds, orders = _rounds(), []
    batch = rounds.pictures.batch

    def watched(indices: Tensor, **options: Any) -> Tensor:
        if options.get("crops") is not None:  # the attacks read pictures too
            orders.append(indices.tolist())
        return batch(indices, **options)

    object.__setattr__(rounds.pictures, "batch", watched)
    rounds.run()
    assert len(orders) == 12
    epochs = [list(itertools.chain(*orders[start : start + 3])) for start in range(0, 12, 3)]
    assert all(len(set(epoch)) == 30 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_loss_that_is_not_finite_ends_the_rounds_and_is_not_kept(tmp_path: Path) -> None:
    rounds, path = _rounds(), tmp_path / "rounds.safetensors"
    rounds.training.step = lambda *_, **__: float("nan")  # type: ignore[method-assign]
    with pytest.raises(DataError, match="loss is nan at iteration 1"):
        rounds.run(checkpoint=path)
    assert not path.exists()
