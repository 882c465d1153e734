"""Every method by name and by the common signature."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from prn_guard.errors import InvalidArgumentError
from tests.tolerances import BALL
from tests.training.small import SHAPE, pictures, trained_target
from training.attacks.engine import Rule
from training.attacks.job import AttackJob
from training.attacks.norms import Norm, norm_of
from training.attacks.registry import METHODS, craft, method


def _job(norm: Norm, *, seed: int = 0) -> AttackJob:
    return AttackJob(
        classifier=trained_target(),
        pictures=pictures(40, seed=2),
        norm=norm,
        epsilon=0.1 if norm == "linf" else 1.0,
        generator=torch.Generator().manual_seed(seed),
    )


def test_the_registry_holds_every_rule_and_iterative_deepfool() -> None:
    assert set(METHODS) >= {*get_args(Rule), "iterative-deepfool"}
    summaries = [entry.summary for entry in METHODS.values()]
    assert len(set(summaries)) == len(summaries)
    assert all(method(name) is METHODS[name] for name in METHODS)


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_method_crafts_inside_the_ball_and_repeats(name: str, norm: Norm) -> None:
    told: list[tuple[int, int]] = []
    job = replace(_job(norm), on_step=lambda done, total: told.append((done, total)))
    first, second = craft(name, job), craft(name, _job(norm))
    assert (first.shape, first.dtype, first.requires_grad) == (SHAPE, torch.float32, False)
    assert 0.1 * job.epsilon < float(norm_of(first, norm)) <= job.epsilon + BALL.absolute
    assert torch.equal(first, second)
    assert told[-1][0] <= told[-1][1]


@pytest.mark.parametrize("name", get_args(Rule))
def test_every_field_of_a_job_reaches_the_gradient_methods(name: str) -> None:
    told: list[tuple[int, int]] = []
    job = replace(
        _job("linf"),
        steps=3,
        target_class=2,
        on_step=lambda done, total: told.append((done, total)),
    )
    targeted = craft(name, job)
    assert told == [(1, 3), (2, 3), (3, 3)]
    others = [replace(_job("linf"), steps=3)]
    others.append(replace(_job("linf"), steps=3, target_class=2, start=torch.full(SHAPE, 0.09)))
    for other in others:
        assert not torch.equal(craft(name, other), targeted)
    assert torch.equal(craft(name, replace(_job("linf"), steps=3, target_class=2)), targeted)


def test_the_rules_are_told_apart() -> None:
    crafted = [craft(name, replace(_job("l2"), steps=5)) for name in get_args(Rule)]
    for number, first in enumerate(crafted):
        assert not any(torch.equal(first, second) for second in crafted[:number])


def test_iterative_deepfool_goes_on_from_a_start() -> None:
    start = craft("iterative-deepfool", _job("l2"))
    again = craft("iterative-deepfool", replace(_job("l2"), start=start))
    assert not torch.equal(again, craft("iterative-deepfool", _job("l2")))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"target_class": 1}, "no use for target_class"), ({"steps": 10}, "no use for steps")],
)
def test_what_a_method_cannot_do_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        craft("iterative-deepfool", replace(_job("linf"), **change))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InvalidArgumentError, match=r"no attack 'fgsm'; choose one of: sign-pgd, "):
        method("fgsm")
