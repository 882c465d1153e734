"""Methods by name, and what they are refused."""

import dataclasses
import re
from typing import Any

import pytest
import torch

from prn_guard.errors import InvalidArgumentError
from tests.training.hardening.networks import equal_states, linear, state, trainer
from training.hardening.job import OPTIONS, HardeningJob, MethodOptions
from training.hardening.registry import METHODS, check_options, harden, method, recipe_of

VALUES: dict[str, Any] = {
    "weight": 0.07, "projections": 2, "adversarial_share": 0.5, "rule": "sgd", "sharedness": 2,
    "sigma": 0.3, "attack_steps": 2,
}  # fmt: skip


def _job(options: MethodOptions, **ball: Any) -> HardeningJob:
    return HardeningJob(
        trainer=trainer(linear()), **{"norm": "linf", "epsilon": 0.1} | ball, options=options
    )


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    names = ", ".join(METHODS)
    with pytest.raises(InvalidArgumentError, match=f"no hardening method 'jr'; .*one of: {names}"):
        method("jr")


@pytest.mark.parametrize("name", METHODS)
def test_each_option_is_used_or_refused(name: str) -> None:
    assert set(VALUES) == set(OPTIONS)
    fallback = {"sharedness": 2} if name == "shared" else {}
    job = _job(MethodOptions(**fallback))
    harden(name, job)
    usual = state(job.trainer.target)
    for option, value in VALUES.items():
        job = _job(MethodOptions(**fallback | {option: value}))
        if option not in method(name).takes:
            takers = [other for other, one in METHODS.items() if option in one.takes]
            message = f"{name} has no use for {option}: .*choose one of: {', '.join(takers)}."
            with pytest.raises(InvalidArgumentError, match=message):
                harden(name, job)
        elif {option: value} != fallback:
            harden(name, job)
            assert not equal_states(usual, state(job.trainer.target)), option


@pytest.mark.parametrize("name", METHODS)
def test_the_callers_own_random_numbers_are_left_alone(name: str) -> None:
    options = MethodOptions(sharedness=2) if name == "shared" else MethodOptions()
    job = _job(options)
    torch.manual_seed(7)
    harden(name, job)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))


def test_a_network_without_any_gradient_is_left_as_it_is_by_the_root_of_the_sum() -> None:
    target = linear()
    with torch.no_grad():
        for weight in target.classifier.parameters():
            weight.zero_()
    options = MethodOptions(weight=1.0)
    harden("jacobian-post", HardeningJob(
        trainer=trainer(target), norm="linf", epsilon=0.1, options=options
    ))  # fmt: skip
    assert all(bool(value.isfinite().all()) for value in state(target).values())


def test_options_that_are_left_out_are_no_options() -> None:
    for name in METHODS:
        check_options(name, MethodOptions())


@pytest.mark.parametrize(
    ("ball", "message"),
    [
        ({"epsilon": 8.0}, "epsilon is 8 in linf.*divide by 255"),
        ({"epsilon": 0.0}, "epsilon is 0"),
        ({"norm": "l1"}, "norm is 'l1'"),
    ],
)
def test_a_ball_that_makes_no_sense_is_refused(ball: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        harden("uat", _job(MethodOptions(), **ball))


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_penalty_is_no_reward(weight: float) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(f"weight is {weight}; expected 0")):
        MethodOptions(weight=weight)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("uat", {"batch_size": 128, "momentum": 0.9, "drops": (0.5, 0.75), "optimizer": "sgd"}),
        ("shared", {"batch_size": 128, "momentum": 0.9, "epochs": 65, "learning_rate": 0.0025}),
        ("shared", {"drops": (50 / 65,), "optimizer": "sgd"}),
        ("jacobian-post", {"batch_size": 500, "optimizer": "adam"}),
        ("cross-lipschitz", {"batch_size": 500, "optimizer": "adam"}),
        ("input-gradient", {"batch_size": 500, "optimizer": "adam"}),
    ],
)
def test_recipes_are_those_of_the_papers(name: str, published: dict[str, Any]) -> None:
    own = method(name).recipe
    assert {key: getattr(own, key) for key in published} == published


def test_low_cost_training_differs_from_the_alternating_one_by_its_passes_alone() -> None:
    assert method("uat-low-cost").recipe == method("uat").recipe


@pytest.mark.parametrize("name", METHODS)
def test_a_value_replaces_that_of_the_recipe_and_no_other(name: str) -> None:
    own = method(name).recipe
    assert recipe_of(name) == own
    changed = recipe_of(name, learning_rate=0.123, largest_gradient=4.5)
    assert changed == dataclasses.replace(own, learning_rate=0.123, largest_gradient=4.5)
