"""Fits that take any perturbation and train for a few steps, and how two guards are compared."""

import functools
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor

from tests.training.tiny_guard import make_fitting_quick
from training.attacks import stochastic_gradient
from training.attacks.engine import Schedule
from training.checkpoint import load_tensors
from training.guard import crafting
from training.guard.folder import read_record
from training.guard.recipe import Recipe
from training.guard.request import FitRequest
from training.perturbations.bank import BankCriteria

FILES = ("target", "bank", "synthetic", "rectifier", "found", "detector")


def make_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take any perturbation, and write checkpoints often."""
    make_fitting_quick(monkeypatch)
    anything = functools.partial(BankCriteria, least_fooling=0.0, most_cosine=1.0)
    monkeypatch.setattr(crafting, "BankCriteria", anything)
    monkeypatch.setattr(
        stochastic_gradient, "Schedule", functools.partial(Schedule, steps=5, travel=20.0)
    )
    recipe = Recipe(
        epochs=4, learning_rate=0.003, checkpoint_every=2, detection=1.0, adversarial_share=0.4,
        rounds=2, round_iterations=2, attack_steps=3,
    )  # fmt: skip
    monkeypatch.setattr(FitRequest, "recipe", lambda _: recipe)


def tensors_of(folder: Path) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
    return {name: load_tensors(folder / f"{name}.safetensors") for name in FILES}


def assert_same_guard(one: Path, other: Path) -> None:
    first, second = tensors_of(one), tensors_of(other)
    for name in FILES:
        assert first[name][1] == second[name][1], name
        assert first[name][0].keys() == second[name][0].keys(), name
        for key, value in first[name][0].items():
            assert torch.equal(value, second[name][0][key]), (name, key)
    records = [read_record(folder).model_copy(update={"seconds": {}}) for folder in (one, other)]
    assert records[0] == records[1]


def stop(*_: object, **__: object) -> NoReturn:
    """What the user does who presses Ctrl-C."""
    raise KeyboardInterrupt
