"""Which attack in which turn, where it begins, and that it finds what fools the guard."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prn_guard.nn.detector import Detector
from prn_guard.nn.guarded import GuardedClassifier
from tests.tolerances import BALL, FIGURE, assert_close
from tests.training.small import SHAPE, everything, pictures, trained_target
from training.attacks.fooling import predict
from training.attacks.norms import Norm, norm_of
from training.datasets import Pictures
from training.guard import guard_attack
from training.guard.guard_attack import BATCH, EVASION, GuardAttack, agreement
from training.guard.joint_detector import JointDetector
from training.guard.recipe import Recipe
from training.guard.surrogates import bare_target, expected_guard, through_rectifier
from training.processes import Processes

RECIPE = Recipe(epochs=1, learning_rate=0.01, attack_steps=12)
EPSILON = 0.15


class _Blur(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)


def _guard(*, threshold: float = 0.0) -> GuardedClassifier:
    """One whose rectifier blurs and whose detector looks at how much that takes away."""
    joint = JointDetector(*SHAPE[1:])
    with torch.no_grad():
        clean = everything(pictures(64, seed=3))
        joint.follow(joint.features(clean - _Blur()(clean)), Processes())
    detector: Detector = joint.detector()
    detector.threshold.fill_(threshold)
    return GuardedClassifier(trained_target(), _Blur(), detector).eval()


def _bank() -> Tensor:
    return 0.1 * torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1)).sign()


def _agreement(
    guarded: GuardedClassifier, judging: Pictures, perturbation: Tensor
) -> tuple[float, float]:
    found = agreement(guarded, judging, predict(guarded.target, judging), perturbation)
    kept, flagged = found.tolist()
    return kept, flagged


def _attack(*, norm: Norm = "linf", epsilon: float = EPSILON, seed: int = 0) -> GuardAttack:
    return GuardAttack(
        pictures=pictures(300, seed=5),
        bank=_bank(),
        norm=norm,
        epsilon=epsilon,
        recipe=RECIPE,
        seed=seed,
    )


def test_three_of_each_round_evade_and_the_fourth_takes_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Told by what is differentiated, not by the names alone."""
    guarded, seen = _guard(), []
    names: dict[str, Callable[..., Any]] = {
        "bare_target": bare_target,
        "expected_guard": expected_guard,
        "through_rectifier": through_rectifier,
    }
    for name, surrogate in names.items():

        def watched(of: Any, *, told: str = name, made: Any = surrogate) -> Any:
            seen.append(told)
            return made(of)

        monkeypatch.setattr(guard_attack, name, watched)
    evading = guard_attack.evading

    def evades(*arguments: Any, **options: Any) -> Any:
        assert options["weight"] == EVASION
        assert arguments[1] is guarded
        seen.append("evading")
        return evading(*arguments, **options)

    monkeypatch.setattr(guard_attack, "evading", evades)
    monkeypatch.setattr(guard_attack, "ascend", lambda *_, **__: torch.zeros(1, *SHAPE))
    attack = _attack()
    told = [attack.run(guarded, number)[0] for number in range(12)]
    three = ["evade"] * 3
    assert told == [*three, "expected guard", *three, "rectifier", *three, "expected guard"]
    evades_thrice = ["bare_target", "evading"] * 3
    assert seen == [
        *evades_thrice, "expected_guard", *evades_thrice, "through_rectifier",
        *evades_thrice, "expected_guard",
    ]  # fmt: skip


def test_every_third_begins_at_a_perturbation_of_the_bank_and_the_others_at_random(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: list[Tensor] = []

    def ascend(_: Any, __: Any, start: Tensor, **___: Any) -> Tensor:
        starts.append(start)
        return start

    monkeypatch.setattr(guard_attack, "ascend", ascend)
    attack, guarded = _attack(), _guard()
    for number in range(24):
        attack.run(guarded, number)
    of_bank = [any(torch.equal(start[0], one) for one in _bank()) for start in starts]
    assert of_bank == [number % 3 == 2 for number in range(24)]
    assert len(torch.unique(torch.stack(starts[2::3]).flatten(1), dim=0)) == 3
    others = torch.stack([one for number, one in enumerate(starts) if number % 3 != 2])
    assert len(torch.unique(others.flatten(1), dim=0)) == 16
    assert float(others.abs().max()) <= EPSILON


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", EPSILON), ("l2", 1.8)])
def test_an_attack_repeats_by_its_number_and_stays_in_the_ball(norm: Norm, epsilon: float) -> None:
    guarded, found = _guard(), []
    for number, seed in ((1, 0), (1, 0), (3, 0), (1, 1)):
        found.append(_attack(norm=norm, epsilon=epsilon, seed=seed).run(guarded, number)[1])
        assert found[-1].shape == SHAPE
        assert float(norm_of(found[-1], norm)) <= epsilon + BALL.absolute
    assert torch.equal(found[0], found[1])
    assert not any(torch.equal(found[0], other) for other in found[2:])


def test_attacks_lower_the_agreement_far_below_that_of_their_starts() -> None:
    """Nothing is flagged by the first guard, everything by the second."""
    judging = pictures(200, seed=8)
    for threshold, numbers in ((1e9, (0, 3)), (-1e9, (3, 7))):
        guarded = _guard(threshold=threshold)
        noise = EPSILON * torch.randn(SHAPE, generator=torch.Generator().manual_seed(4)).sign()
        before, flagged = _agreement(guarded, judging, noise)
        assert flagged == (threshold < 0)
        for number in numbers:
            after, _ = _agreement(guarded, judging, _attack().run(guarded, number)[1])
            assert after < before - 0.2, number


def test_the_evading_attack_is_flagged_less_than_the_same_without_evasion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judging, guarded = pictures(200, seed=8), _guard()
    clean = everything(judging)
    scores = guarded.detector(clean - guarded.rectifier(clean))
    guarded.detector.threshold.copy_(scores.quantile(0.9))
    # In a dozen steps from a random corner neither gets anywhere near the threshold.
    attack = replace(_attack(), recipe=replace(RECIPE, attack_steps=60))
    evaded = _agreement(guarded, judging, attack.run(guarded, 0)[1])
    monkeypatch.setattr(guard_attack, "EVASION", 0.0)
    straight = _agreement(guarded, judging, attack.run(guarded, 0)[1])
    assert evaded[1] < straight[1] - 0.4


def test_no_more_pictures_are_labelled_than_the_steps_see(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []

    def ascend(_: Any, some: Any, start: Tensor, *, steps: int, **options: Any) -> Tensor:
        counts.append((len(some), steps, options["batch_size"]))
        return start

    monkeypatch.setattr(guard_attack, "ascend", ascend)
    for steps in (3, 40):
        attack = replace(_attack(), recipe=replace(RECIPE, attack_steps=steps))
        attack.run(_guard(), 0)
    assert counts == [(3 * BATCH // 2, 3, BATCH), (300, 40, BATCH)]


def test_the_guard_is_left_as_it_was() -> None:
    guarded = _guard()
    before = {name: value.clone() for name, value in guarded.state_dict().items()}
    _attack().run(guarded, 0)
    for name, value in guarded.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(weight.grad is None for weight in guarded.parameters())


@torch.no_grad()
def test_agreement_is_counted_over_all_batches_with_the_bare_clean_label() -> None:
    judging, perturbation = pictures(70, seed=8), 2 * _bank()[0]
    images = everything(judging)
    guarded = _guard()
    middle = guarded(images + perturbation).score.median()
    guarded.detector.threshold.copy_(middle)
    seen = (images + perturbation).clamp(0, 1)
    removed = seen - guarded.rectifier(seen)
    over = guarded.detector(removed) > middle
    bare, rectified = guarded.target(seen).argmax(1), guarded.target(seen - removed).argmax(1)
    labels = torch.where(over, rectified, bare)
    kept = (labels == guarded.target(images).argmax(1)).double().mean()
    found = _agreement(guarded, judging, perturbation)
    assert_close(found, [float(kept), float(over.double().mean())], FIGURE)
    assert 0.2 < found[1] < 0.8
    assert found[0] < 1
