"""`compare` on the command line."""

import json
from pathlib import Path

import pytest

from tests.commands import Run, assert_refused
from tests.tolerances import FIGURE, assert_close
from tests.training.tiny_guard import Workplace
from training.attacks import stochastic_gradient
from training.checkpoint import load_tensors, save_tensors
from training.evaluation.comparison_figures import CHARTS


def _command(work: Workplace, out: Path, *networks: str) -> tuple[object, ...]:
    named = [word for one in networks for word in ("--network", one)]
    return (
        *("compare", "--target", work.target, *named, "--images", work.images),
        *("--test-images", work.images, "--epsilon", "0.15", "--limit", 80, "--out", out),
    )


def _blunted(folder: Path, work: Workplace) -> Path:
    """Other weights of the same network: its last layer halved, which no label tells."""
    tensors, _ = load_tensors(work.weights)
    for name in sorted(tensors)[-2:]:
        tensors[name] = tensors[name] / 2
    save_tensors(folder / "blunted.safetensors", tensors, {})
    return folder / "blunted.safetensors"


def test_networks_are_compared_and_drawn(
    run: Run, work: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stochastic_gradient, "STEPS", 3)
    out, other = tmp_path / "compared", _blunted(tmp_path, work)
    command = (
        *_command(work, out, f"standard={work.weights}", f"blunted={other}"),
        *("--epsilons", "0.05, 20/255", "--rate", "0.4", "--pictures", 20, "--steps", 3),
        *("--json", tmp_path / "c.json"),
    )
    ended = run(*command)
    assert ended.code == 0, ended.err
    result = json.loads((tmp_path / "c.json").read_text())
    assert json.loads((out / "comparison.json").read_text()) == result
    assert {path.name for path in out.glob("*.png")} == set(CHARTS)
    standard, blunted = (result["networks"][name] for name in ("standard", "blunted"))
    assert_close(standard["accuracy"]["clean_accuracy"]["value"], 0.9, FIGURE)
    assert standard["accuracy"]["clean_accuracy"] == blunted["accuracy"]["clean_accuracy"]
    halves = standard["jacobian"]["norm"]["value"] / blunted["jacobian"]["norm"]["value"]
    assert abs(halves - 2) < 1e-4
    assert [one["epsilon"] for one in standard["evasion"].values()] == [0.05, 20 / 255, 0.15]
    assert "standard" in ended.out
    assert "median similarity" in ended.out


def test_parts_may_be_chosen(run: Run, work: Workplace, tmp_path: Path) -> None:
    command = _command(work, tmp_path, f"standard={work.weights}")
    ended = run(*command, "--part", "accuracy")
    assert ended.code == 0, ended.err
    (measured,) = json.loads((tmp_path / "comparison.json").read_text())["networks"].values()
    assert set(measured) == {"identity", "accuracy"}
    assert [path.name for path in tmp_path.glob("*.png")] == ["accuracy.png"]


def test_a_network_without_weights_takes_the_targets_own(
    run: Run, work: Workplace, tmp_path: Path
) -> None:
    command = _command(work, tmp_path, "own=", f"trained={work.weights}")
    ended = run(*command, "--part", "accuracy")
    assert ended.code == 0, ended.err
    networks = json.loads((tmp_path / "comparison.json").read_text())["networks"]
    assert networks["own"]["identity"] != networks["trained"]["identity"]


def test_senseless_options_are_refused(run: Run, work: Workplace, tmp_path: Path) -> None:
    one = f"a={work.weights}"
    command = _command(work, tmp_path, one)
    weights = ("--weights", work.weights)
    assert_refused(run(*command, *weights), "each with a name", f"--network NAME={work.weights}")
    assert_refused(run(*_command(work, tmp_path, str(work.weights))), "expected NAME=WEIGHTS")
    assert_refused(run(*_command(work, tmp_path, f"={work.weights}")), "expected NAME=WEIGHTS")
    assert_refused(run(*_command(work, tmp_path, one, one)), "each time with another name")
    assert_refused(run(*command, "--epsilons", "0.1,8"), "Did you mean 8/255")
    assert_refused(run(*command, "--part", "beauty"), "'beauty'", "accuracy")
    assert not (tmp_path / "comparison.json").exists()
    assert run(*command, "--part", "accuracy").code == 0
    assert_refused(
        run(*command, "--part", "accuracy", "--seed", 9), "seed (0 there, 9 now)", "--restart"
    )
    assert run(*command, "--part", "accuracy", "--seed", 9, "--restart").code == 0
