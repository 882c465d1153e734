"""Families crafted on the bare target: in the ball, each once, the same after an interruption."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from tests.tolerances import BALL
from tests.training.small import SHAPE, pictures, trained_target
from training.attacks.registry import METHODS
from training.evaluation import families as module
from training.evaluation.families import ENTRIES, craft_families, parse_families
from training.evaluation.survey import Entry

QUICK = (Entry("perlin", steps=2), Entry("sign-pgd", steps=3), Entry("sga", "logit_margin", 2))


def _craft(path: Path, **changes: Any) -> dict[str, Tensor]:
    options: dict[str, Any] = {"norm": "linf", "epsilon": 0.15, "seed": 3, "path": path}
    given = options | changes
    entries = given.pop("entries", QUICK)
    return craft_families(trained_target(), pictures(60), entries, **given)


def _crafted(monkeypatch: pytest.MonkeyPatch, *, stop_after: int = 99) -> list[str]:
    """The names of what is crafted from now on; then the user interrupts."""
    craft, names = module.craft, list[str]()

    def watched(name: str, job: Any) -> Tensor:
        if len(names) == stop_after:
            raise KeyboardInterrupt
        names.append(name)
        return craft(name, job)

    monkeypatch.setattr(module, "craft", watched)
    return names


def test_every_known_family_is_among_the_entries_once_but_for_procedural_noise() -> None:
    found = [METHODS[entry.method].family for entry in ENTRIES]
    assert set(found) == {method.family for method in METHODS.values()}
    assert [name for name in set(found) if found.count(name) > 1] == ["procedural"]


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.15), ("l2", 1.5)])
def test_repeats_lie_in_the_ball_and_differ(tmp_path: Path, norm: str, epsilon: float) -> None:
    made = _craft(tmp_path / "f.safetensors", norm=norm, epsilon=epsilon, repeats=2)
    assert list(made) == ["perlin", "sign-pgd", "sga logit_margin"]
    for stack in made.values():
        assert stack.shape == (2, *SHAPE)
        sizes = stack.flatten(1).norm(p=torch.inf if norm == "linf" else 2, dim=1)
        assert float(sizes.max()) <= epsilon + BALL.absolute
        assert not torch.equal(stack[0], stack[1])


def test_an_interrupted_run_goes_on_and_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _craft(tmp_path / "whole.safetensors", repeats=2)
    with monkeypatch.context() as patch:
        _crafted(patch, stop_after=3)
        with pytest.raises(KeyboardInterrupt):
            _craft(tmp_path / "parts.safetensors", repeats=2)
    names = _crafted(monkeypatch)
    parts = _craft(tmp_path / "parts.safetensors", repeats=2)
    assert names == ["sign-pgd", "sga", "sga"]
    for name, stack in whole.items():
        assert torch.equal(parts[name], stack)


@pytest.mark.parametrize(
    ("changes", "anew"),
    [
        ({}, 0),
        ({"entries": (*QUICK, Entry("gabor", steps=1))}, 1),
        ({"entries": (Entry("sign-pgd", steps=4),)}, 1),
        ({"repeats": 2}, 3),
        ({"seed": 4}, 3),
        ({"epsilon": 0.1}, 3),
    ],
)
def test_only_what_is_asked_anew_is_crafted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], anew: int
) -> None:
    path = tmp_path / "f.safetensors"
    _craft(path)
    names = _crafted(monkeypatch)
    _craft(path, **changes)
    assert len(names) == anew


def test_lists_of_families_are_read() -> None:
    assert parse_families("generator@500, sga:logit_margin,perlin") == (
        Entry("generator", steps=500),
        Entry("sga", "logit_margin"),
        Entry("perlin"),
    )
    assert parse_families("sga:logit_margin@7") == (Entry("sga", "logit_margin", 7),)


@pytest.mark.parametrize("text", ["magic", "perlin@", "perlin@0", "perlin@-3", "perlin@x", ""])
def test_lists_that_name_no_family_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"There is no attack|no number of steps"):
        parse_families(text)


def test_one_family_twice_or_no_repeat_is_refused(tmp_path: Path) -> None:
    twice = (Entry("perlin"), Entry("perlin", steps=2))
    with pytest.raises(InvalidArgumentError, match="perlin is listed twice"):
        _craft(tmp_path / "f.safetensors", entries=twice)
    with pytest.raises(InvalidArgumentError, match="repeats is 0"):
        _craft(tmp_path / "f.safetensors", repeats=0)
    with pytest.raises(InvalidArgumentError, match="divide by 255"):
        _craft(tmp_path / "f.safetensors", epsilon=10.0)
    assert not (tmp_path / "f.safetensors").exists()
