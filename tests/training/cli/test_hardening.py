"""`harden` on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Run, assert_refused
from tests.training.tiny_guard import Workplace
from training.hardening import command
from training.hardening.registry import METHODS
from training.targets import load_target

FEW_STEPS = 4


@pytest.fixture(autouse=True)
def _short_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = command.measure

    def few(*arguments: Any, **named: Any) -> Any:
        return measure(*arguments, **named | {"steps": FEW_STEPS, "batch_size": 16})

    monkeypatch.setattr(command, "measure", few)


def _harden(work: Workplace, out: Path, *more: object) -> tuple[object, ...]:
    return (
        *("harden", "--target", work.target, "--weights", work.weights),
        *("--images", work.images, "--limit", 120, "--epsilon", "0.1", "--out", out, *more),
    )


def test_method_without_a_value_lists_every_method(run: Run) -> None:
    ended = run("harden", "--method", "--epsilon", "0.1")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS)
    for line, entry in zip(lines, METHODS.values(), strict=True):
        assert line.endswith(entry.summary)
        assert len(line) <= 79


def test_what_the_command_line_says_is_what_is_done(
    run: Run, work: Workplace, tmp_path: Path
) -> None:
    out = tmp_path / "hardened"
    ended = run(
        *_harden(work, out, "--method", "shared", "--sharedness", 8, "--sigma", "0.25"),
        *("--attack-steps", 2, "--epochs", 2, "--batch-size", 16, "--learning-rate", "0.001"),
        *("--weight-decay", "0.01", "--augmentation", "flip", "--patience", 7, "--seed", 3),
        *("--test-images", work.images, "--mixed-precision", "--json", tmp_path / "r.json"),
    )
    assert ended.code == 0, ended.err
    record = json.loads((out / "hardening.json").read_text())
    assert json.loads((tmp_path / "r.json").read_text()) == record
    said = {
        "method": "shared", "sharedness": 8, "sigma": 0.25, "attack_steps": 2, "epochs": 2,
        "batch_size": 16, "learning_rate": 0.001, "weight_decay": 0.01, "augmentation": "flip",
        "patience": 7, "seed": 3, "mixed precision": True, "weight": None, "optimizer": "sgd",
    }  # fmt: skip
    assert {name: record["request"][name] for name in said} == said
    for name in ("before", "after"):
        value = record["test"][name]["clean"]["value"]
        assert f"{100 * value:.1f}" in ended.out
    hardened = load_target(work.target, weights=str(out / "weights.safetensors"))
    assert hardened.digest() != record["request"]["target weights"]
    again = run(
        *_harden(work, out, "--method", "shared", "--sharedness", 8, "--sigma", "0.25"),
        *("--attack-steps", 2, "--epochs", 2, "--batch-size", 16, "--learning-rate", "0.001"),
        *("--weight-decay", "0.01", "--augmentation", "flip", "--patience", 7, "--seed", 3),
        *("--test-images", work.images, "--mixed-precision"),
    )
    assert again.code == 0
    assert "nothing to do" in again.out


def test_an_epoch_of_another_request_is_not_mixed_in(
    run: Run, work: Workplace, tmp_path: Path
) -> None:
    out = tmp_path / "hardened"
    few = ("--epochs", 1, "--batch-size", 20)
    assert run(*_harden(work, out, "--method", "plain", *few)).code == 0
    other = _harden(work, out, "--method", "uat-low-cost", *few)
    assert_refused(run(*other), "method (plain there, uat-low-cost now)", "--restart")
    assert run(*other, "--restart").code == 0
    assert json.loads((out / "hardening.json").read_text())["request"]["method"] == "uat-low-cost"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--method", "magic"), "no hardening method 'magic'"),
        (("--method", "plain", "--sigma", "0.5"), "plain has no use for sigma"),
        (("--method", "uat", "--learning-rate", "-1"), "learning_rate is -1.0"),
        (("--method", "shared", "--sharedness", "7", "--batch-size", "16"), "sharedness is 7"),
        (("--method", "plain", "--batch-size", "4000"), "fewer than one mini-batch"),
    ],
)
def test_what_makes_no_sense_is_refused(
    run: Run, work: Workplace, tmp_path: Path, more: tuple[str, ...], says: str
) -> None:
    assert_refused(run(*_harden(work, tmp_path / "o", *more)), says)
