"""Stochastic-gradient perturbations where the worst case is known, and what they promise."""

import numpy as np
import pytest
import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from tests.tolerances import BALL, WORST_CASE, assert_close
from tests.training.small import (
    SHAPE,
    everything,
    gray_pictures,
    linear_classifier,
    pictures,
    trained_target,
)
from training.attacks.engine import Rule, Schedule
from training.attacks.fooling import fooling_rate, predict
from training.attacks.norms import Norm, norm_of, random_start
from training.attacks.stochastic_gradient import (
    stochastic_gradient_uap,
    stochastic_gradient_uaps,
)
from training.datasets import ArrayPictures

SHORT = Schedule(steps=20)


def _normal() -> Tensor:
    """Small enough that no picture's loss reaches the clip, where gradients would vanish."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(4)) * 0.15


def _seed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _attack(
    classifier: torch.nn.Module,
    norm: Norm,
    *,
    epsilon: float,
    target_class: int | None = None,
    rule: Rule = "sign-pgd",
) -> Tensor:
    return stochastic_gradient_uap(
        classifier,
        gray_pictures(40),
        norm=norm,
        epsilon=epsilon,
        generator=_seed(),
        target_class=target_class,
        rule=rule,
        batch_size=16,
    )


@pytest.mark.parametrize("answer", ["yes", "no"])
@pytest.mark.parametrize("targeted", [False, True])
def test_in_linf_a_linear_classifier_is_driven_into_the_worst_corner(
    answer: str, targeted: bool
) -> None:
    normal, side = _normal(), 1 if answer == "yes" else -1
    middle = (everything(gray_pictures(40)) * normal).sum(dim=(1, 2, 3)).mean()
    classifier = linear_classifier(normal, side * 2 - float(middle))
    assert predict(classifier, gray_pictures(40)).tolist() == [int(answer == "yes")] * 40
    target_class = int(answer == "no") if targeted else None
    result = _attack(classifier, "linf", epsilon=0.25, target_class=target_class)
    assert torch.equal(result, -side * 0.25 * normal.sign())


@pytest.mark.parametrize("target_class", [0, 1])
def test_in_l2_a_linear_classifier_is_driven_along_its_normal(target_class: int) -> None:
    normal = _normal()
    middle = (everything(gray_pictures(40)) * normal).sum(dim=(1, 2, 3)).mean()
    classifier = linear_classifier(normal, -float(middle))
    result = _attack(classifier, "l2", epsilon=1.5, target_class=target_class)
    best = (2 * target_class - 1) * normal / normal.norm()
    assert_close(result / 1.5, best, WORST_CASE)
    assert_close(norm_of(result, "l2"), 1.5, BALL)


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
def test_every_rule_comes_close_to_the_worst_case(rule: Rule) -> None:
    normal = _normal()
    middle = (everything(gray_pictures(40)) * normal).sum(dim=(1, 2, 3)).mean()
    classifier = linear_classifier(normal, 2 - float(middle))
    result = _attack(classifier, "linf", epsilon=0.25, rule=rule)
    reached = -float((result * normal).sum()) / (0.25 * float(normal.abs().sum()))
    assert 0.97 < reached <= 1 + BALL.absolute


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_crafted_perturbation_fools_on_unseen_pictures(norm: Norm) -> None:
    target, epsilon = trained_target(), 0.15 if norm == "linf" else 1.8
    crafted = stochastic_gradient_uap(
        target, pictures(200, seed=2), norm=norm, epsilon=epsilon, generator=_seed(), schedule=SHORT
    )
    unseen = pictures(200, seed=3)
    clean = predict(target, unseen)
    noise = random_start(SHAPE, norm, epsilon, generator=_seed())
    assert fooling_rate(clean, predict(target, unseen, noise)) < 0.1
    assert fooling_rate(clean, predict(target, unseen, crafted)) > 0.5
    assert float(norm_of(crafted, norm)) <= epsilon + BALL.absolute


def test_a_targeted_perturbation_sends_pictures_to_its_class() -> None:
    target, unseen = trained_target(), pictures(200, seed=3)
    for target_class in range(3):
        crafted = stochastic_gradient_uap(
            target,
            pictures(200, seed=2),
            norm="linf",
            epsilon=0.2,
            generator=_seed(),
            target_class=target_class,
            schedule=SHORT,
        )
        arrived = predict(target, unseen, crafted) == target_class
        assert float(arrived.double().mean()) > 0.9


def test_labels_are_the_classifiers_own_not_the_true_ones() -> None:
    known = pictures(100, seed=2)
    images = (everything(known) * 255).round().to(torch.uint8)
    mislabelled = ArrayPictures(images, (known.labels + 1) % 3, known.class_names)
    crafted = [
        stochastic_gradient_uap(
            trained_target(), given, norm="linf", epsilon=0.1, generator=_seed(), schedule=SHORT
        )
        for given in (known, mislabelled)
    ]
    assert torch.equal(crafted[0], crafted[1])


def test_a_seed_repeats_bit_by_bit_and_another_does_not() -> None:
    crafted = [
        stochastic_gradient_uap(
            trained_target(),
            pictures(100, seed=2),
            norm="linf",
            epsilon=0.1,
            generator=_seed(seed),
            rule="adam",
            schedule=SHORT,
        )
        for seed in (1, 1, 2)
    ]
    assert torch.equal(crafted[0], crafted[1])
    assert not torch.equal(crafted[0], crafted[2])


def test_given_directions_are_avoided() -> None:
    def cosine(away_from: Tensor | None) -> float:
        (second,) = stochastic_gradient_uaps(
            trained_target(),
            pictures(200, seed=2),
            [1],
            norm="l2",
            epsilon=1.5,
            generator=_seed(5),
            away_from=away_from,
            schedule=Schedule(steps=60),
        )
        return abs(float((first * second).sum() / first.norm() / second.norm()))

    first = stochastic_gradient_uap(
        trained_target(),
        pictures(200, seed=2),
        norm="l2",
        epsilon=1.5,
        generator=_seed(6),
        target_class=1,
    )
    assert cosine(None) > 0.8
    assert cosine(torch.zeros(0, *SHAPE)) > 0.8
    assert cosine(first[None]) < 0.3


def test_an_attack_goes_on_from_its_start() -> None:
    start = torch.full(SHAPE, 0.05)
    crafted = stochastic_gradient_uap(
        trained_target(),
        pictures(100, seed=2),
        norm="linf",
        epsilon=0.1,
        generator=_seed(),
        start=start,
        schedule=Schedule(steps=1, travel=0.01),
    )
    moved = np.unique((crafted - start).numpy().round(5))
    assert set(moved) == {np.float32(-0.001), np.float32(0.001)}
    assert torch.equal(start, torch.full(SHAPE, 0.05))


def test_every_step_is_told() -> None:
    told: list[tuple[int, int]] = []
    stochastic_gradient_uap(
        trained_target(),
        pictures(20),
        norm="l2",
        epsilon=0.5,
        generator=_seed(),
        schedule=Schedule(steps=4),
        on_step=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_until_is_asked_after_every_step_and_ends_the_attack() -> None:
    told: list[int] = []
    seen: list[Tensor] = []

    def third(perturbations: Tensor) -> bool:
        seen.append(perturbations.clone())
        return len(seen) == 3

    crafted = stochastic_gradient_uaps(
        trained_target(),
        pictures(20),
        [None, 1],
        norm="linf",
        epsilon=0.1,
        generator=_seed(),
        schedule=SHORT,
        until=third,
        on_step=lambda done, _: told.append(done),
    )
    assert told == [1, 2, 3]
    assert torch.equal(crafted, seen[-1])
    assert crafted.shape == (2, *SHAPE)
    assert not torch.equal(seen[0], seen[1])
    alone = stochastic_gradient_uap(
        trained_target(),
        pictures(20),
        norm="linf",
        epsilon=0.1,
        generator=_seed(),
        schedule=SHORT,
        until=lambda perturbations: perturbations.shape == (1, *SHAPE),
        on_step=lambda done, _: told.append(done),
    )
    assert (alone.shape, told[3:]) == (SHAPE, [1])


@pytest.mark.parametrize("target_class", [-1, 3])
def test_a_class_that_does_not_exist_is_refused(target_class: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"target_class is {target_class}; .* 0 to 2"):
        stochastic_gradient_uap(
            trained_target(),
            pictures(20),
            norm="linf",
            epsilon=0.1,
            generator=_seed(),
            target_class=target_class,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "l0"}, "norm is 'l0'"),
        ({"epsilon": 8.0}, "divide by 255"),
        ({"rule": "rmsprop"}, "rule is 'rmsprop'"),
    ],
)
def test_a_ball_or_rule_that_makes_no_sense_is_refused(
    change: dict[str, object], message: str
) -> None:
    arguments = {"norm": "linf", "epsilon": 0.1, "generator": _seed(), **change}
    with pytest.raises(InvalidArgumentError, match=message):
        stochastic_gradient_uap(trained_target(), pictures(20), **arguments)


def test_perturbations_crafted_together_are_those_crafted_alone() -> None:
    """Their starts are drawn first, and their mini-batches are the same."""
    targets, known = [None, 1, 2], pictures(100, seed=2)
    starts = torch.stack([torch.full(SHAPE, 0.01 * number) for number in range(3)])

    def craft(which: slice) -> Tensor:
        return stochastic_gradient_uaps(
            trained_target(),
            known,
            targets[which],
            norm="linf",
            epsilon=0.1,
            generator=_seed(),
            start=starts[which],
            schedule=SHORT,
        )

    alone = torch.cat([craft(slice(number, number + 1)) for number in range(3)])
    same = (craft(slice(None)) == alone).double().mean()
    assert float(same) > 0.99  # a sum in another order may turn the sign of a gradient near zero


def test_perturbations_crafted_together_keep_away_from_each_other() -> None:
    def largest(away_from: Tensor | None) -> float:
        crafted = stochastic_gradient_uaps(
            trained_target(),
            pictures(200, seed=2),
            [1, 1],
            norm="l2",
            epsilon=1.5,
            generator=_seed(5),
            away_from=away_from,
            schedule=Schedule(steps=200),
        ).flatten(1)
        return abs(float(torch.nn.functional.cosine_similarity(crafted[0], crafted[1], dim=0)))

    assert largest(None) > 0.8
    assert largest(torch.zeros(0, *SHAPE)) < 0.3


def test_nothing_to_craft_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="target_classes is empty"):
        stochastic_gradient_uaps(
            trained_target(), pictures(20), [], norm="linf", epsilon=0.1, generator=_seed()
        )
