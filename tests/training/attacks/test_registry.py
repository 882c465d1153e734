"""Every method by name and by the common signature."""

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from prn_guard.errors import InvalidArgumentError
from tests.tolerances import BALL
from tests.training.small import SHAPE, pictures, trained_target
from training.attacks.engine import Rule
from training.attacks.job import OPTIONS, AttackJob, Option
from training.attacks.norms import Norm, norm_of
from training.attacks.registry import METHODS, craft, method

STEPS = 6


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


def test_families_are_told_apart_and_those_that_resemble_each_other_are_one() -> None:
    families = {name: entry.family for name, entry in METHODS.items()}
    assert {families[rule] for rule in get_args(Rule)} == {"stochastic gradient"}
    assert families["perlin"] == families["gabor"]
    others = ("sign-pgd", "sga", "iterative-deepfool", "singular-vector", "data-free", "generator")
    assert len({families[name] for name in (*others, "perlin")}) == len(others) + 1


@pytest.mark.parametrize("name", list(METHODS))
def test_a_summary_fits_a_line_of_the_list(name: str) -> None:
    summary = METHODS[name].summary
    assert len(f"{name:20} {summary}") <= 79
    assert summary == summary.strip().rstrip(".")
    assert "\n" not in summary


def _short(name: str, norm: Norm, *, seed: int = 0) -> AttackJob:
    """A job of few steps, where the method takes any."""
    steps = STEPS if "steps" in METHODS[name].takes else None
    return replace(_job(norm, seed=seed), steps=steps)


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_method_crafts_inside_the_ball_and_repeats(name: str, norm: Norm) -> None:
    told: list[tuple[int, int]] = []
    job = replace(_short(name, norm), on_step=lambda done, total: told.append((done, total)))
    first, second = craft(name, job), craft(name, _short(name, norm))
    assert (first.shape, first.dtype, first.requires_grad) == (SHAPE, torch.float32, False)
    assert 0.1 * job.epsilon < float(norm_of(first, norm)) <= job.epsilon + BALL.absolute
    assert torch.equal(first, second)
    assert told[-1][0] <= told[-1][1]


@pytest.mark.parametrize("name", [*get_args(Rule), "sga"])
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
    others.append(replace(_job("linf"), steps=3, target_class=2, loss="logit_margin"))
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
    ("name", "option"),
    [(name, option) for name in METHODS for option in OPTIONS if option not in METHODS[name].takes],
)
def test_what_a_method_has_no_use_for_is_refused(name: str, option: Option) -> None:
    given: dict[Option, Any] = {
        "target_class": 1,
        "start": torch.zeros(SHAPE),
        "steps": 10,
        "loss": "logit_margin",
    }
    with pytest.raises(InvalidArgumentError, match=f"{name} has no use for {option}") as refused:
        craft(name, replace(_job("linf"), **{option: given[option]}))
    able = [other for other, entry in METHODS.items() if option in entry.takes]
    assert f"choose one of: {', '.join(able)}." in str(refused.value)


def test_a_method_without_gradients_needs_none() -> None:
    @torch.no_grad()
    def labels_only(images: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = trained_target()(images)
        return answers

    for name in ("perlin", "gabor"):
        job = _short(name, "linf")
        assert torch.equal(
            craft(name, replace(job, classifier=labels_only)), craft(name, _short(name, "linf"))
        )


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InvalidArgumentError, match=r"no attack 'fgsm'; choose one of: sign-pgd, "):
        method("fgsm")
