"""Trainings that are interrupted and go on end with the same bits, by every method."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import Tensor, nn

from prn_guard.errors import ArtifactError
from prn_guard.nn.target import Target
from tests.training.hardening.networks import (
    OPTIONS,
    changing,
    equal_states,
    recipe,
    state,
    trainer,
    unchanging,
)
from tests.training.small import SHAPE
from training.hardening import trainer as module
from training.hardening.job import HardeningJob, MethodOptions
from training.hardening.recipe import Recipe
from training.hardening.registry import METHODS, harden
from training.hardening.universal_adversarial import PERTURBATION

STEPS = 6
Stop = Callable[[int, int, float], None]
CASES = [
    *((name, OPTIONS.get(name, MethodOptions()), "sgd") for name in METHODS),
    *(
        (name, MethodOptions(rule=rule), "sgd")
        for name in ("uat", "uat-low-cost")
        for rule in ("sgd", "adam")
    ),
    ("jacobian", MethodOptions(adversarial_share=0.5, projections=3), "adam"),
    ("plain", MethodOptions(), "adam"),
]
NAMES = [f"{name}-{options.rule or ''}-{optimizer}" for name, options, optimizer in CASES]


class _StoppedError(Exception):
    """As if the process had gone."""


def _run(
    name: str,
    options: MethodOptions,
    rates: Recipe,
    *,
    target: Target | None = None,
    path: Path | None = None,
    on_step: Stop | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights, buffers and the method's state after a training, or what is left of it."""
    target = target or changing()
    training = trainer(target, rates=rates, checkpoint=path, micro_batch=3, on_step=on_step)
    harden(name, HardeningJob(trainer=training, norm="linf", epsilon=0.1, options=options))
    return state(target), training.state


def _stop_at(last: int) -> Stop:
    def stop(done: int, _total: int, _loss: float) -> None:
        if done == last:
            raise _StoppedError

    return stop


@pytest.mark.parametrize(("name", "options", "optimizer"), CASES, ids=NAMES)
def test_interrupted_at_any_step_it_ends_with_the_same_bits(
    name: str,
    options: MethodOptions,
    optimizer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STEPS_BETWEEN_CHECKPOINTS", 2)
    rates = recipe(optimizer=optimizer, augmentation="crop-flip", drops=(0.5,), learning_rate=0.02)
    torch.manual_seed(0)
    weights, kept = _run(name, options, rates)
    assert not equal_states(weights, state(changing()))
    for last in range(1, STEPS + 1):
        path = tmp_path / f"{last}.safetensors"
        with pytest.raises(_StoppedError):
            _run(name, options, rates, path=path, on_step=_stop_at(last))
        torch.manual_seed(last)
        # A fresh network: nothing but the checkpoint carries what was done.
        resumed, kept_then = _run(name, options, rates, path=path)
        assert equal_states(resumed, weights)
        assert equal_states(kept_then, kept)


def test_checkpoints_are_written_inside_epochs_and_after_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEPS_BETWEEN_CHECKPOINTS", 2)
    saved: list[int] = []
    save = module.save_training

    def record(path: Path, *rest: object, done: int, **named: object) -> None:
        saved.append(done)
        save(path, *rest, done=done, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "save_training", record)
    _run("plain", MethodOptions(), recipe(), path=tmp_path / "state.safetensors")
    assert saved == [2, 3, 4, 6]  # three steps an epoch


def test_a_finished_training_has_nothing_left_to_do(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    weights, kept = _run("uat", MethodOptions(), recipe(), path=path)

    def never(*_: object) -> NoReturn:
        raise AssertionError

    again, kept_again = _run("uat", MethodOptions(), recipe(), path=path, on_step=never)
    assert equal_states(weights, again)
    assert equal_states(kept, kept_again)


def test_an_early_end_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    for _ in range(2):
        training = trainer(
            changing(), rates=recipe(epochs=5), checkpoint=path, validate=lambda epoch: epoch == 2
        )
        harden("plain", HardeningJob(trainer=training, norm="linf", epsilon=0.1))
        assert training.step == 6


def test_what_a_network_is_at_first_does_not_matter_to_one_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(_StoppedError):
        _run("uat", MethodOptions(), recipe(), path=path, on_step=_stop_at(5))
    other = changing()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(2)
    weights, _ = _run("uat", MethodOptions(), recipe(), path=path, target=other)
    assert equal_states(weights, _run("uat", MethodOptions(), recipe())[0])


def test_the_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    _run("plain", MethodOptions(), recipe(), path=path)
    with pytest.raises(ArtifactError, match="belongs to another training"):
        trainer(unchanging(), checkpoint=path)


def test_the_perturbation_of_a_training_goes_on_too(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    _, kept = _run("uat", MethodOptions(rule="adam"), recipe(), path=path)
    assert set(kept) == {PERTURBATION, "first moment", "second moment"}
    stored = trainer(changing(), checkpoint=path).state
    assert equal_states(stored, kept)
    assert stored[PERTURBATION].shape == SHAPE


def test_networks_with_tied_weights_can_be_interrupted(tmp_path: Path) -> None:
    def tied() -> Target:
        target = unchanging()
        first, last = nn.Linear(144, 144), nn.Linear(144, 144)
        last.weight = first.weight
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for value in (first.weight, first.bias, last.bias):
                value.copy_(torch.randn(value.shape, generator=generator) / 12)
        target.classifier.insert(3, nn.Sequential(first, nn.Tanh(), last))
        return target

    whole, _ = _run("plain", MethodOptions(), recipe(), target=tied())
    path = tmp_path / "state.safetensors"
    with pytest.raises(_StoppedError):
        _run("plain", MethodOptions(), recipe(), target=tied(), path=path, on_step=_stop_at(4))
    resumed, _ = _run("plain", MethodOptions(), recipe(), target=tied(), path=path)
    assert equal_states(resumed, whole)
