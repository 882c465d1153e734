"""The transfer measurement: every figure by hand, its marks, and the same bits after a stop."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prn_guard.errors import InvalidArgumentError
from prn_guard.nn.guarded import GuardedClassifier
from tests.commands import Run, assert_refused
from tests.tolerances import BALL, FIGURE, assert_close
from tests.training.small import everything, pictures
from tests.training.tiny_guard import EPSILON, Workplace
from training.checkpoint import load_tensors
from training.datasets import Pictures
from training.evaluation import metrics
from training.evaluation import transfer as module
from training.evaluation.baselines import BASELINES
from training.evaluation.corruptions import CORRUPTIONS, corrupted
from training.evaluation.survey import Entry
from training.evaluation.transfer import measure_transfer
from training.evaluation.transfer_tables import alarm_rows, baseline_rows, perturbation_rows
from training.guard.folder import load_bank

ENTRIES = (Entry("perlin", steps=2), Entry("adam", steps=3))


def _stack(count: int, *, seed: int, size: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(count, 1, 12, 12, generator=generator).sign()


@pytest.fixture
def measured(
    guarded: GuardedClassifier,
    guard_folder: Path,
    test_set: Pictures,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Measure with these options, changed as told."""
    monkeypatch.setattr(metrics, "RESAMPLES", 20)  # intervals have tests of their own

    def measure(out: Path, **changes: Any) -> dict[str, Any]:
        options: dict[str, Any] = {
            "norm": "linf", "epsilon": EPSILON, "crafting": pictures(60, seed=9), "test": test_set,
            "held_out": load_bank(guard_folder).unseen, "families": ENTRIES,
            "elsewhere": {"other.npy": _stack(2, seed=1, size=0.1)},
            "other_norm": {"l2.npy": _stack(1, seed=2, size=0.05)},
            "repeats": 2, "seed": 3, "out": out, "identity": {"images": "tiny"},
        }  # fmt: skip
        return measure_transfer(guarded, **(options | changes))

    return measure


def _shares(
    guarded: GuardedClassifier, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, np.ndarray]:
    """Which pictures are right, by hand: bare, rectified, guarded; and which are flagged."""
    with torch.no_grad():
        rectified = guarded.rectifier(images)
        flagged = guarded.detector(images - rectified) > guarded.detector.threshold
        bare = guarded.target(images).argmax(dim=1)
        mended = guarded.target(rectified).argmax(dim=1)
    chosen = torch.where(flagged, mended, bare)
    right = {"bare": bare, "rectified": mended, "guarded": chosen}
    found = {name: (answer == labels).double().numpy() for name, answer in right.items()}
    changed = {"bare": bare, "chosen": chosen}
    return found | {"flagged": flagged.double().numpy()} | {
        f"{name} label": answer.numpy() for name, answer in changed.items()
    }  # fmt: skip


def test_every_row_is_what_a_hand_calculation_gives(
    measured: Any, guarded: GuardedClassifier, guard_folder: Path, test_set: Pictures,
    tmp_path: Path,
) -> None:  # fmt: skip
    result = measured(tmp_path)
    assert json.loads((tmp_path / "transfer.json").read_text()) == result
    made, _ = load_tensors(tmp_path / "families.safetensors")
    stacks = {
        "held-out": load_bank(guard_folder).unseen,
        "perlin": torch.stack([made["perlin@2#0"], made["perlin@2#1"]]),
        "adam": torch.stack([made["adam@3#0"], made["adam@3#1"]]),
        "other.npy": _stack(2, seed=1, size=0.1),
        "l2.npy": _stack(1, seed=2, size=0.05),
    }
    assert list(result["perturbations"]) == [
        f"{name} x {factor}" for name in stacks for factor in ("1", "1.5", "2")
    ]
    images, labels = everything(test_set), test_set.labels
    clean = _shares(guarded, images, labels)
    for row in result["perturbations"].values():
        scaled = stacks[row["name"]] * row["factor"]
        found = [
            _shares(guarded, ((images + one).clamp(0, 1) * 255).round() / 255, labels)
            for one in scaled
        ]
        for key, name in (
            ("undefended_perturbed_accuracy", "bare"),
            ("guarded_perturbed_accuracy", "guarded"),
            ("rectified_perturbed_accuracy", "rectified"),
            ("perturbed_flagged_rate", "flagged"),
        ):
            assert_close(row[key]["value"], np.mean([one[name] for one in found]), FIGURE)
        for key, name in (
            ("undefended_fooling_rate", "bare label"),
            ("guarded_fooling_rate", "chosen label"),
        ):
            fooled = [one[name] != clean["bare label"] for one in found]
            assert_close(row[key]["value"], np.mean(fooled), FIGURE)
        ratios = [one["guarded"].mean() / clean["bare"].mean() for one in found]
        assert_close(row["relative_accuracy"]["value"], np.mean(ratios), FIGURE)
        assert_close(row["least_relative_accuracy"], min(ratios), FIGURE)
        assert row["perturbations"] == len(scaled)
        assert_close(row["linf"], scaled.abs().max(), BALL)
        assert_close(row["l2"], scaled.flatten(1).norm(dim=1).max(), BALL)


def test_families_that_the_guard_was_fitted_on_are_marked(measured: Any, tmp_path: Path) -> None:
    result = measured(tmp_path)
    own = {row["name"]: row for row in result["perturbations"].values() if row["factor"] == 1}
    marks = {name: (row["kind"], row["family"], row["trained_family"]) for name, row in own.items()}
    assert marks == {
        "held-out": ("held-out", "stochastic gradient", True),
        "perlin": ("family", "procedural", False),
        "adam": ("family", "stochastic gradient", True),
        "other.npy": ("elsewhere", None, None),
        "l2.npy": ("other norm", None, None),
    }
    assert own["l2.npy"]["norm"] == "l2"
    unseen = [own["perlin"], own["other.npy"]]
    summary = result["summary"]
    assert summary["groups"] == 2
    assert_close(
        summary["mean_relative_accuracy"],
        np.mean([row["relative_accuracy"]["value"] for row in unseen]),
        FIGURE,
    )
    assert summary["least_relative_accuracy"] == min(
        row["least_relative_accuracy"] for row in unseen
    )
    everything_trained = measured(
        tmp_path, trained_families=["stochastic gradient", "procedural"], elsewhere={}, larger=[]
    )
    assert everything_trained["summary"]["groups"] == 0
    assert everything_trained["perturbations"]["perlin x 1"]["trained_family"] is True


def test_baselines_and_false_alarms_are_measured_on_the_same_pictures(
    measured: Any, guarded: GuardedClassifier, test_set: Pictures, tmp_path: Path
) -> None:
    result = measured(tmp_path, families=(), elsewhere={}, other_norm={}, larger=[])
    assert list(result["baselines"]) == list(BASELINES)
    bare = result["baselines"]["no defense"]
    row = result["perturbations"]["held-out x 1"]
    assert bare["accuracy"]["held-out"] == row["undefended_perturbed_accuracy"]
    assert bare["clean_accuracy"] == result["clean"]["clean_accuracy"]
    assert list(result["false_alarms"]) == list(CORRUPTIONS)
    for name, part in result["false_alarms"].items():
        found = _shares(guarded, everything(corrupted(test_set, name, seed=3)), test_set.labels)
        assert_close(part["false_positive_rate"]["value"], found["flagged"].mean(), FIGURE)
        assert_close(part["guarded_clean_accuracy"]["value"], found["guarded"].mean(), FIGURE)
        assert_close(part["clean_accuracy"]["value"], found["bare"].mean(), FIGURE)
    (clean, under), alarms = baseline_rows(result), alarm_rows(result)
    assert [figure["n"] for figure in clean[1]] == [len(test_set)] * (len(BASELINES) + 1)
    assert under[1][-1] == row["guarded_perturbed_accuracy"]
    assert alarms[0] == ("none", [result["clean"][key] for key in (
        "false_positive_rate", "clean_accuracy", "guarded_clean_accuracy",
    )])  # fmt: skip
    assert perturbation_rows(result)[0][0].endswith("family stochastic gradient, fitted on; "
                                                    "mean of 2")  # fmt: skip


def _without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_seconds(v) for k, v in value.items() if k != "seconds"}
    return value


@pytest.mark.parametrize("where", ["_row", "baseline_figures", "corrupted"])
def test_an_interrupted_run_goes_on_to_the_same_result(
    measured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    whole = measured(tmp_path / "whole")
    real, calls = getattr(module, where), list[int]()

    def watched(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(module, where, watched)
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "parts")
    parts = measured(tmp_path / "parts")
    assert _without_seconds(parts) == _without_seconds(whole)
    done = len(calls)
    again = measured(tmp_path / "parts")
    assert len(calls) == done
    assert again == parts
    for name, tensor in load_tensors(tmp_path / "whole" / "families.safetensors")[0].items():
        other = load_tensors(tmp_path / "parts" / "families.safetensors")[0][name]
        assert torch.equal(tensor, other)


def test_guards_of_one_target_can_share_what_was_crafted(measured: Any, tmp_path: Path) -> None:
    shared = tmp_path / "shared.safetensors"
    one = measured(tmp_path / "one", families_path=shared, larger=[])
    before = shared.stat().st_mtime_ns
    other = measured(tmp_path / "two", families_path=shared, larger=[], identity={"images": "x"})
    assert shared.stat().st_mtime_ns == before
    assert not (tmp_path / "one" / "families.safetensors").exists()
    assert one["request"] != other["request"]


def test_names_twice_and_empty_stacks_are_refused(measured: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="called 'perlin'"):
        measured(tmp_path, elsewhere={"perlin": _stack(1, seed=1, size=0.1)})
    with pytest.raises(InvalidArgumentError, match=r"'x' have shape \(1, 12, 12\)"):
        measured(tmp_path, elsewhere={"x": _stack(1, seed=1, size=0.1)[0]})


def test_the_command_writes_its_files_and_prints_the_threat_model(
    run: Run, work: Workplace, guard_folder: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "other.npy", _stack(1, seed=1, size=0.1).numpy())
    out = tmp_path / "evaluation"
    command = (
        *("transfer", guard_folder, "--images", work.images, "--limit", 40, "--out", out),
        *("--families", "perlin@2,gabor@2", "--perturbations", tmp_path / "other.npy"),
    )
    ended = run(*command, "--json", tmp_path / "t.json")
    assert ended.code == 0, ended.err
    result = json.loads((out / "transfer.json").read_text())
    assert json.loads((tmp_path / "t.json").read_text()) == result
    assert result["clean"]["clean_accuracy"]["n"] == 40
    names = {row["name"] for row in result["perturbations"].values()}
    assert names == {"held-out", "perlin", "gabor", str(tmp_path / "other.npy")}
    assert set(load_tensors(out / "families.safetensors")[0]) == {"perlin@2#0", "gabor@2#0"}
    for part in ("linf, epsilon 0.15", "neither rectifier nor detector", "JPEG 50", "brightness"):
        assert part in ended.out
    assert_refused(run(*command, "--families", "magic"), "magic", "choose one of")
    assert_refused(run(*command, "--other-norm", tmp_path / "none.npy"), "no perturbation file")
