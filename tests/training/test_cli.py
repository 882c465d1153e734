"""`python -m training`: results where they were asked for, and errors that say what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch

from prn_guard.files import sha256_of
from tests.commands import Run, assert_refused
from tests.training.tiny_guard import EPSILON, FIT, Workplace, write_blank_idx
from training.checkpoint import load_tensors
from training.demo import train_lenet
from training.guard.folder import read_record

ROOT = Path(__file__).resolve().parents[2]


def test_attack_writes_what_it_prints(attack: Run, tmp_path: Path) -> None:
    ended = attack("--epsilon", "38.25/255", "--json", tmp_path / "a.json")
    assert ended.code == 0
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["epsilon"] == EPSILON
    assert f"{result['fooling_rate']:.4g}" in ended.out
    perturbation = load_tensors(tmp_path / "p.safetensors")[0]["perturbations"]
    assert float(perturbation.abs().max()) == pytest.approx(EPSILON, rel=1e-6)


def test_attacks_repeat_under_their_seed(attack: Run, tmp_path: Path) -> None:
    crafted = []
    for number, seed in enumerate((7, 7, 8)):
        path = tmp_path / f"{number}.safetensors"
        assert attack("--seed", seed, "--out", path).code == 0
        crafted.append(load_tensors(path)[0]["perturbations"])
    assert torch.equal(crafted[0], crafted[1])
    assert not torch.equal(crafted[0], crafted[2])


@pytest.mark.usefixtures("_quick_work")
def test_the_detector_is_chosen_on_the_command_line(
    run: Run, work: Workplace, tmp_path: Path
) -> None:
    command = ("fit", *work.arguments(), "--test-images", work.images, "--epsilon", EPSILON, *FIT)
    command = (*command, "--out", tmp_path / "guard", "--detector", "rbf")
    assert_refused(run(*command, "--detector-features", "plane"), "expected 'bands'")
    ended = run(*command)
    assert ended.code == 0
    spec = json.loads((tmp_path / "guard" / "guard.json").read_text())["detector"]
    assert (spec["kernel"], spec["features"]) == ("rbf", "bands")
    assert f"rbf on bands, {spec['support_vectors']} support vectors" in ended.out


@pytest.mark.usefixtures("_quick_work")
def test_terms_of_the_loss_are_weighted_on_the_command_line(
    run: Run, work: Workplace, tmp_path: Path
) -> None:
    command = ("fit", *work.arguments(), "--test-images", work.images, "--epsilon", EPSILON, *FIT)
    rectifiers = []
    for name, weights in (("own", ()), ("given", ("--clean-divergence", 0.5, "--pixels", 0))):
        assert run(*command, *weights, "--out", tmp_path / name).code == 0
        recipe = json.loads((tmp_path / name / "guard.json").read_text())["recipe"]
        expected = (0.5, 0.0) if weights else (0.0, 10_000.0)
        assert (recipe["clean_divergence"], recipe["pixels"]) == expected
        rectifiers.append(load_tensors(tmp_path / name / "rectifier.safetensors")[0])
    assert any(not torch.equal(rectifiers[0][key], rectifiers[1][key]) for key in rectifiers[0])


@pytest.mark.usefixtures("_quick_work")
def test_fit_and_evaluate_from_the_command_line(run: Run, work: Workplace, tmp_path: Path) -> None:
    out, evaluation = tmp_path / "guard", tmp_path / "evaluation"
    command = ("fit", *work.arguments(), "--test-images", work.images, "--epsilon", EPSILON, *FIT)
    ended = run(*command, "--out", out, "--json", tmp_path / "fit.json")
    assert ended.code == 0
    record = json.loads((out / "guard.json").read_text())
    assert json.loads((tmp_path / "fit.json").read_text()) == record
    assert f"{record['threshold']:.4f} (for 10.0% false alarms)" in ended.out
    again = run(*command, "--out", out)
    assert "holds this very guard already" in again.out
    assert_refused(run(*command, "--out", out, "--seed", 1), "another seed (0 there, 1 now)")
    assert json.loads((out / "guard.json").read_text()) == record

    measured = run(
        *("evaluate", out, "--images", work.images, "--limit", 40, "--out", evaluation),
        *("--perturbations", _saved(tmp_path / "own.npy"), "--json", tmp_path / "metrics.json"),
    )
    assert measured.code == 0
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert f"{100 * metrics['adaptive_accuracy']['value']:.2f}" in measured.out
    assert "own.npy" in measured.out
    assert (metrics["setting"]["test_pictures"], metrics["elsewhere"][0]["number"]) == (40, 0)


def _saved(path: Path) -> Path:
    np.save(path, np.full((1, 12, 12), 0.1))
    return path


def test_stopping_says_how_to_go_on(attack: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.attacks.command.craft_and_measure", stop)
    ended = attack()
    assert ended.code == 130
    assert "Traceback" not in ended.err


def test_the_demonstrations_target(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_lenet, "EPOCHS", 1)
    monkeypatch.setattr(train_lenet, "BATCH_SIZE", 2)
    monkeypatch.setattr(train_lenet, "LEAST_ACCURACY", 0.0)
    data, out = write_blank_idx(tmp_path / "data", side=28), tmp_path / "lenet.safetensors"
    ended = run("demo-target", "--out", out, "--data-folder", data)
    assert ended.code == 0
    assert "test accuracy" in ended.out
    digest = sha256_of(out)
    assert "there already" in run("demo-target", "--out", out, "--data-folder", data).out
    assert sha256_of(out) == digest


def test_the_help_imports_no_framework() -> None:
    code = (
        "import sys; from training import cli; "
        "print(sorted({'torch', 'torchvision', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    ended = subprocess.run(  # noqa: S603 - our own interpreter and text
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


def test_as_a_program(work: Workplace, tmp_path: Path) -> None:
    def python(*options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - our own interpreter and text
            [sys.executable, "-W", "error", "-m", "training", *map(str, options)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    common = ("attack", *work.arguments(), "--steps", 2, "--out", tmp_path / "p.safetensors")
    refused = python(*common, "--epsilon", 10)
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: epsilon is 10, above 1")
    assert list(tmp_path.iterdir()) == []
    done = python(*common, "--epsilon", EPSILON, "--json", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    tensors, metadata = load_tensors(tmp_path / "p.safetensors")
    assert tensors["perturbations"].shape == (1, 1, 12, 12)
    written = json.loads((tmp_path / "a.json").read_text())
    assert written == metadata["attack"] | {"file": str(tmp_path / "p.safetensors")}


def test_the_record_names_the_target_as_it_was_given(guard_folder: Path, work: Workplace) -> None:
    assert read_record(guard_folder).target == work.target
