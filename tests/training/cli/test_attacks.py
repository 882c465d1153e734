"""`attack`, `bank` and `survey` on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.commands import Run, assert_refused
from tests.tolerances import FIGURE, assert_close
from tests.training.small import NAMES, SHAPE, everything
from tests.training.tiny_guard import EPSILON, Workplace
from training.attacks.registry import METHODS
from training.checkpoint import load_tensors
from training.datasets import load_pictures
from training.evaluation.adaptive import SURROGATES
from training.guard.folder import load_guard

BANK = (
    *("--epsilon", "0.2", "--members", "3", "--held-out", "1", "--steps", "6"),
    *("--least-fooling", "0.1", "--most-cosine", "0.97"),
)


@pytest.mark.parametrize("command", ["attack", "survey"])
@pytest.mark.parametrize("after", [(), ("--epsilon", "0.1")])
def test_method_without_a_value_lists_every_method(
    run: Run, command: str, after: tuple[str, ...]
) -> None:
    ended = run(command, "--method", *after)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS)
    for line, entry in zip(lines, METHODS.values(), strict=True):
        assert line.endswith(entry.summary)
        assert len(line) <= 79


@pytest.mark.parametrize("command", ["attack", "bank", "survey", "show", "robustness"])
def test_a_gpu_that_is_not_there_is_refused(
    run: Run, work: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    file = (work.weights,) if command == "show" else ()
    ended = run(
        command, *file, *work.arguments(), "--epsilon", "0.1", "--out", tmp_path / "o",
        "--device", "cuda",
    )  # fmt: skip
    assert_refused(ended, "--device cuda", "finds no GPU here", "Leave the option out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["attack", "survey"])
def test_what_to_attack_is_given_once(
    run: Run, work: Workplace, guard_folder: Path, tmp_path: Path, command: str
) -> None:
    common = ("--images", work.images, "--epsilon", "0.1", "--out", tmp_path / "o")
    for given in ((), ("--target", work.target, "--guard", guard_folder)):
        assert_refused(run(command, *common, *given), "either --target", "or --guard")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("through", list(SURROGATES))
def test_a_guard_is_attacked_end_to_end(
    run: Run, work: Workplace, guard_folder: Path, tmp_path: Path, through: str
) -> None:
    out = tmp_path / "p.safetensors"
    ended = run(
        *("attack", "--guard", guard_folder, "--through", through, "--images", work.images),
        *("--test-images", work.images, "--epsilon", "0.25", "--steps", 20, "--out", out),
        *("--json", tmp_path / "a.json"),
    )
    assert ended.code == 0, ended.err
    result = json.loads((tmp_path / "a.json").read_text())
    guarded, _ = load_guard(guard_folder)
    judging = load_pictures(str(work.images), split="test", size=SHAPE, class_count=len(NAMES))
    images = everything(judging)
    perturbation = load_tensors(out)[0]["perturbations"][0]
    with torch.no_grad():
        clean, perturbed = (
            guarded(seen).label for seen in (images, (images + perturbation).clamp(0, 1))
        )
    assert result["judging_pictures"] == len(judging)
    assert_close(result["fooling_rate"], (clean != perturbed).double().mean(), FIGURE)
    wrong = (perturbed != judging.labels).double().mean()
    assert_close(result["universal_evasion_rate"], wrong, FIGURE)
    assert result["fooling_rate"] > 0.2


def test_what_an_attack_goes_on_from(attack: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "start.npy", np.full(SHAPE, 0.14, dtype=np.float32))
    crafted = []
    for number, options in enumerate(((), ("--start", tmp_path / "start.npy"))):
        out = tmp_path / f"{number}.safetensors"
        assert attack("--steps", 1, "--out", out, *options).code == 0
        crafted.append(load_tensors(out)[0]["perturbations"])
    assert not torch.equal(*crafted)
    np.save(tmp_path / "start.npy", np.full((1, 9, 9), 0.1))
    assert_refused(attack("--start", tmp_path / "start.npy"), "(1, 1, 9, 9)", "(1, 12, 12)")
    np.save(tmp_path / "start.npy", np.full(SHAPE, 14.0))
    assert_refused(attack("--start", tmp_path / "start.npy"), "0-255 scale")
    assert_refused(attack("--start", tmp_path / "nowhere.npy"), "no perturbation file")


@pytest.mark.parametrize("method", ["perlin", "data-free"])
def test_a_loss_is_refused_where_there_is_no_choice(attack: Run, method: str) -> None:
    ended = attack("--method", method, "--loss", "logit_margin")
    assert_refused(ended, f"{method} has no use for loss", "choose one of: sign-pgd")


def test_the_loss_reaches_the_attack(attack: Run, tmp_path: Path) -> None:
    crafted = []
    for loss in ("cross_entropy", "logit_margin", "logit_cosine"):
        out = tmp_path / f"{loss}.safetensors"
        assert attack("--method", "sga", "--loss", loss, "--out", out).code == 0
        crafted.append(load_tensors(out)[0]["perturbations"])
    assert not torch.equal(crafted[0], crafted[1])
    assert not torch.equal(crafted[1], crafted[2])


def test_a_bank_is_made_once_and_shown_again(run: Run, work: Workplace, tmp_path: Path) -> None:
    out = tmp_path / "bank.safetensors"
    command = ("bank", *work.arguments(), *BANK, "--test-images", work.images, "--out", out)
    ended = run(*command, "--json", tmp_path / "b.json")
    assert ended.code == 0, ended.err
    result = json.loads((tmp_path / "b.json").read_text())
    assert (result["members"], result["held_out"], result["relaxed"]) == (3, 1, False)
    assert "3 (1 held out)" in ended.out
    low, high = min(result["fooling_rates"]), max(result["fooling_rates"])
    assert f"{low:.1%} to {high:.1%}" in ended.out
    assert "fooling rates, 90 test pictures" in ended.out
    assert load_tensors(out)[0]["perturbations"].shape == (3, *SHAPE)
    before = out.read_bytes()
    assert run(*command, "--json", tmp_path / "again.json").code == 0
    assert json.loads((tmp_path / "again.json").read_text()) == result
    assert_refused(run(*command, "--seed", 1), "a bank with another", "seed (0 there, 1 now)")
    assert out.read_bytes() == before
    assert run(*command, "--seed", 1, "--restart").code == 0
    assert out.read_bytes() != before


def test_a_survey_is_a_table_that_grows(run: Run, work: Workplace, tmp_path: Path) -> None:
    out = tmp_path / "survey"
    command = ("survey", *work.arguments(), "--epsilon", EPSILON, "--out", out)
    first = run(*command, "--method", "perlin")
    assert first.code == 0, first.err
    ended = run(*command, "--method", "sgd:logit_margin", "--json", tmp_path / "s.json")
    assert ended.code == 0, ended.err
    result = json.loads((out / "survey.json").read_text())
    assert json.loads((tmp_path / "s.json").read_text()) == result
    assert {row["name"] for row in result["attacks"]} == {"perlin", "sgd logit_margin"}
    for row in result["attacks"]:
        (line,) = (line for line in ended.out.splitlines() if f" {row['name']} " in line)
        assert f"{row['fooling_rate']:.1%}" in line
    assert_refused(
        run(*command, "--method", "perlin", "--seed", 1),
        "a survey with another",
        "seed (0 there, 1 now)",
    )


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ("magic", ("no attack 'magic'",)),
        ("perlin:logit_margin", ("with a choice of them sign-pgd",)),
        ("sga:hinge", ("Losses are cross_entropy",)),
    ],
)
def test_a_survey_of_what_is_not_there_is_refused_at_once(
    run: Run, work: Workplace, tmp_path: Path, entry: str, parts: tuple[str, ...]
) -> None:
    command = ("survey", *work.arguments(), "--epsilon", EPSILON, "--out", tmp_path / "survey")
    assert_refused(run(*command, "--method", "perlin", "--method", entry), *parts)
    assert list(tmp_path.iterdir()) == []
