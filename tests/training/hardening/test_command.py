"""`harden` from beginning to end: its folder, its record, and interruptions."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor

from prn_guard.nn.target import state_digest
from tests.training.hardening.requests import UAT, hardening, held_for_testing
from tests.training.small import everything, trained_target
from tests.training.tiny_guard import TEST, TRAINING, Workplace, make_fitting_quick
from training.attacks.fooling import predict
from training.datasets import Pictures
from training.guard import crafting as bank_stage
from training.guard.fit import fit
from training.guard.folder import load_guard
from training.hardening import command, validation
from training.hardening import trainer as module
from training.hardening.command import harden
from training.hardening.epochs import kept_epoch
from training.perturbations.bank import BankCriteria
from training.targets import load_target

pytestmark = pytest.mark.usefixtures("short_attacks")


def _record(folder: Path) -> Any:
    return json.loads((folder / "hardening.json").read_text())


def test_the_folder_holds_what_the_module_says(hardened: Path) -> None:
    names = {path.name for path in hardened.iterdir()}
    assert names == {"request.json", "hardening.json", "weights.safetensors", "training.svg"}


def test_the_record_is_of_the_request_that_was_claimed(hardened: Path, work: Workplace) -> None:
    record = _record(hardened)
    assert record["request"] == json.loads((hardened / "request.json").read_text())
    assert record["request"]["target weights"] == state_digest(trained_target())
    assert record["request"]["method"] == "uat"
    assert record["request"]["rule"] == "adam"
    assert record["validation_pictures"] == round(0.1 * TRAINING)
    assert [one["epoch"] for one in record["epochs"]] == [1, 2, 3]
    assert record["test"]["before"]["clean"]["n"] == TEST
    assert record["seconds"] > 0


def test_the_figure_before_is_that_of_the_target(hardened: Path, work: Workplace) -> None:
    test = held_for_testing(work).pictures
    right = (predict(trained_target(), test) == test.labels).double().mean()
    assert _record(hardened)["test"]["before"]["clean"]["value"] == pytest.approx(float(right))


def test_the_weights_are_those_of_the_epoch_that_is_kept(hardened: Path, work: Workplace) -> None:
    record = _record(hardened)
    target = load_target(work.target, weights=str(hardened / "weights.safetensors")).target
    assert state_digest(target) != state_digest(trained_target())
    request = hardening(work, **UAT)
    _, _, judging = command._parts(request)
    clean = float((predict(target, judging) == judging.labels).double().mean())
    best = record["epochs"][record["kept_epoch"] - 1]
    assert clean == best["clean"]["value"]
    assert best["epoch"] == kept_epoch(record["epochs"])["epoch"]
    test = held_for_testing(work).pictures
    right = float((predict(target, test) == test.labels).double().mean())
    assert record["test"]["after"]["clean"]["value"] == right


def _rows(pictures: Pictures) -> set[bytes]:
    return {one.numpy().tobytes() for one in everything(pictures)}


def test_validation_sees_neither_training_nor_test_pictures(
    work: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Pictures, Pictures]] = []
    trained: list[Pictures] = []
    measure, trainer = command.measure, command.Trainer

    def look(target: Any, crafting: Pictures, judging: Pictures, **rest: Any) -> Any:
        seen.append((crafting, judging))
        return measure(target, crafting, judging, **rest)

    def make(target: Any, pictures: Pictures, **rest: Any) -> Any:
        trained.append(pictures)
        return trainer(target, pictures, **rest)

    monkeypatch.setattr(command, "measure", look)
    monkeypatch.setattr(command, "Trainer", make)
    request = hardening(work)
    test = held_for_testing(work)
    harden(dataclasses.replace(request, test=test), tmp_path / "out")
    training, tested = _rows(trained[0]), _rows(test.pictures)
    assert len(seen) == 6  # both before, three epochs, the test after
    for crafting, judging in (seen[0], *seen[2:5]):
        assert _rows(crafting) <= training
        assert not _rows(judging) & (training | tested)
    for crafting, judging in (seen[1], seen[5]):
        assert _rows(crafting) <= training
        assert _rows(judging) == tested


def test_the_parts_are_all_pictures_once(work: Workplace) -> None:
    request = hardening(work)
    training, crafting, validating = command._parts(request)
    assert len(training) + len(validating) == TRAINING
    whole = sorted(one.numpy().tobytes() for one in everything(request.training.pictures))
    parts = [*everything(training), *everything(validating)]
    assert sorted(one.numpy().tobytes() for one in parts) == whole
    assert len(crafting) == len(training)


def _scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> list[dict[str, Tensor]]:
    """Validation that finds these scores, and the weights that it was asked about."""
    asked: list[dict[str, Tensor]] = []
    before: list[bool] = []
    measure = command.measure

    def found(target: Any, *rest: Any, **named: Any) -> validation.Robustness:
        if not before:
            before.append(True)
            return measure(target, *rest, **named)
        state = target.classifier.state_dict()
        asked.append({name: value.clone() for name, value in state.items()})
        real = measure(target, *rest, **named)
        score = scores[len(asked) - 1]
        return dataclasses.replace(
            real,
            clean={**real.clean, "value": score},
            universal={**real.universal, "value": score},
        )

    monkeypatch.setattr(command, "measure", found)
    return asked


@pytest.mark.parametrize(
    ("scores", "patience", "best", "epochs"),
    [
        ([0.5, 0.9, 0.9, 0.6], 10, 2, 4),  # of two as good the earlier
        ([0.5, 0.9, 0.8, 0.7], 2, 2, 4),
        ([0.9, 0.8, 0.7, 0.95], 2, 1, 3),
        ([0.9, 0.8, 0.7, 0.95], 1, 1, 2),
        ([0.5, 0.6, 0.7, 0.8], 1, 4, 4),
    ],
)
def test_the_best_epoch_is_kept_and_patience_ends_the_training(
    work: Workplace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scores: list[float],
    patience: int,
    best: int,
    epochs: int,
) -> None:
    asked = _scripted(monkeypatch, scores)
    out = tmp_path / "out"
    harden(hardening(work, rates={"epochs": 4, "patience": patience}), out)
    record = _record(out)
    assert record["kept_epoch"] == best
    assert len(record["epochs"]) == len(asked) == epochs
    target = load_target(work.target, weights=str(out / "weights.safetensors")).target
    for name, value in target.classifier.state_dict().items():
        assert torch.equal(value, asked[best - 1][name])


class _Stopped(BaseException):
    """As if the process had been killed."""


@pytest.mark.parametrize(
    "where", ["step 1", "step 5", "step 13", "validation 1", "validation 2", "validation 3"]
)
def test_an_interrupted_hardening_ends_with_the_same_bits(
    hardened: Path,
    work: Workplace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    kind, number = where.split()
    calls: list[int] = []
    out = tmp_path / "out"
    request = dataclasses.replace(hardening(work, **UAT), test=held_for_testing(work))
    with monkeypatch.context() as patch:
        patch.setattr(module, "STEPS_BETWEEN_CHECKPOINTS", 2)
        save, write = module.Trainer._take_step, command.write_json

        def counted(*arguments: Any) -> None:
            calls.append(1)
            if len(calls) == int(number):
                raise _Stopped
            return (save if kind == "step" else write)(*arguments)

        if kind == "step":
            patch.setattr(module.Trainer, "_take_step", counted)
        else:
            # Between the weights of the best epoch and the history that tells of them.
            patch.setattr(command, "write_json", counted)
        with pytest.raises(_Stopped):
            harden(request, out)
    assert not (out / "hardening.json").exists()
    request = dataclasses.replace(hardening(work, **UAT), test=held_for_testing(work))
    harden(request, out)
    same = "weights.safetensors"
    assert (out / same).read_bytes() == (hardened / same).read_bytes()
    timeless = [{**_record(folder), "seconds": 0} for folder in (out, hardened)]
    assert timeless[0] == timeless[1]
    assert not (out / "state").exists()


def test_a_finished_hardening_is_not_done_again(
    hardened: Path, work: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    def never(*_: object, **__: object) -> NoReturn:
        raise AssertionError

    monkeypatch.setattr(command, "train", never)
    request = dataclasses.replace(hardening(work, **UAT), test=held_for_testing(work))
    assert harden(request, hardened) == _record(hardened)
    said = "".join(capsys.readouterr())
    assert "holds this very hardening already; nothing to do" in " ".join(said.split())


def test_training_starts_from_the_weights_that_are_given(
    hardened: Path, work: Workplace, tmp_path: Path
) -> None:
    weights = hardened / "weights.safetensors"
    found = []
    for path in (weights, work.weights):
        loaded = load_target(work.target, weights=str(path))
        # A rate so low that weights in float32 stay where they are, and statistics with them.
        request = hardening(work, loaded=loaded, rates={"learning_rate": 1e-30, "epochs": 1})
        out = tmp_path / path.parent.name
        started = harden(request, out)["request"]["target weights"]
        assert started == load_target(work.target, weights=str(path)).digest()
        found.append(load_target(work.target, weights=str(out / "weights.safetensors")))
        start = load_target(work.target, weights=str(path)).target
        for name, value in start.classifier.named_parameters():
            end = dict(found[-1].target.classifier.named_parameters())[name]
            assert torch.equal(value, end)
    assert found[0].digest() != found[1].digest()


def test_a_hardened_target_can_be_guarded(
    hardened: Path, work: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_fitting_quick(monkeypatch)
    anything = functools.partial(BankCriteria, least_fooling=0.0, most_cosine=1.0)
    monkeypatch.setattr(bank_stage, "BankCriteria", anything)
    loaded = load_target(work.target, weights=str(hardened / "weights.safetensors"))
    request = dataclasses.replace(
        work.request(members=2, held_out=1, synthetic=2, epochs=1), loaded=loaded
    )
    fit(request, tmp_path / "guard")
    guarded, _ = load_guard(tmp_path / "guard")
    assert state_digest(guarded.target) == loaded.digest()
