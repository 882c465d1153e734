"""`evaluate` from beginning to end: what is reported, and that it can be interrupted."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prn_guard.errors import ArtifactError, DataError
from prn_guard.nn.guarded import GuardedClassifier
from tests.tolerances import BALL, FIGURE, assert_close
from tests.training.evaluation.conftest import Evaluation
from tests.training.tiny_guard import EPSILON, TEST, Workplace
from training.attacks.norms import norm_of
from training.datasets import Pictures
from training.evaluation import adaptive
from training.evaluation import evaluate as module
from training.evaluation.adaptive import SURROGATES
from training.evaluation.evaluate import STARTS, evaluate_guard
from training.evaluation.metrics import wilson_interval
from training.evaluation.outcomes import answers
from training.evaluation.protocols import protocol
from training.guard.folder import load_bank

APART = (
    "clean_accuracy",
    "undefended_perturbed_accuracy",
    "guarded_clean_accuracy",
    "guarded_perturbed_accuracy",
    "adaptive_accuracy",
    "false_positive_rate",
)
MIXED = ("prn_gain", "prn_restoration", "detection_rate", "defense_rate")


def _figures(value: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every figure at whatever depth, with where it stands."""
    if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
        yield place, value
    elif isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _figures(inner, f"{place}/{key}")


def _worst(metrics: dict[str, Any]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = metrics["adaptive"]
    return min(rows, key=lambda row: float(row["guarded_perturbed_accuracy"]["value"]))


def _without_time(metrics: dict[str, Any]) -> dict[str, Any]:
    return metrics | {"setting": metrics["setting"] | {"seconds": 0}}


def test_every_demanded_figure_stands_there_with_its_interval(evaluation: Evaluation) -> None:
    metrics = evaluation.metrics
    assert metrics == json.loads((evaluation.out / "metrics.json").read_text())
    found = dict(_figures(metrics))
    wanted = {f"/{name}" for name in APART}
    wanted |= {f"/protocol_{name}/{key}" for name in "ab" for key in MIXED}
    assert wanted <= found.keys()
    for place, figure in found.items():
        assert figure.keys() == {"value", "n", "low", "high"}, place
        assert figure["low"] <= figure["value"] <= figure["high"], place
        assert figure["low"] < figure["high"] or "protocol" in place, place
        assert figure["n"] == TEST or "protocol" in place, place
    threat = metrics["threat_model"]
    assert (threat["norm"], threat["epsilon"]) == ("linf", EPSILON)
    assert all(threat[part] for part in ("universal", "held_out", "adaptive", "delivery"))
    assert all(name in threat["adaptive"] for name in SURROGATES)


def test_the_figures_are_those_of_the_answers(
    evaluation: Evaluation, guarded: GuardedClassifier, test_set: Pictures, guard_folder: Path
) -> None:
    metrics = evaluation.metrics
    stored = load_file(guard_folder / "bank.safetensors")["perturbations"]
    unseen = [answers(guarded, test_set, one) for one in stored[2:]]
    clean, labels = answers(guarded, test_set), test_set.labels.numpy()
    expected = {
        "clean_accuracy": np.mean(clean.bare == labels),
        "guarded_clean_accuracy": np.mean(clean.guarded == labels),
        "false_positive_rate": np.mean(clean.flagged),
        "undefended_perturbed_accuracy": np.mean([one.bare == labels for one in unseen]),
        "guarded_perturbed_accuracy": np.mean([one.guarded == labels for one in unseen]),
        "rectified_perturbed_accuracy": np.mean([one.rectified == labels for one in unseen]),
        "undefended_fooling_rate": np.mean([one.bare != clean.bare for one in unseen]),
    }
    for name, value in expected.items():
        figure = metrics[name]
        assert_close(figure["value"], value, FIGURE)
        assert_close([figure["low"], figure["high"]], wilson_interval(float(value), TEST), FIGURE)
    right = clean.bare == labels
    assert 0 < right.sum() < TEST
    assert metrics["protocol_b"] == protocol(clean, unseen, chosen=right, seed=0)
    assert metrics["protocol_a"] == protocol(clean, unseen, chosen=right | True, seed=0)
    scores = np.concatenate([one.scores for one in unseen])
    above = np.mean(scores[:, None] > clean.scores) + np.mean(scores[:, None] == clean.scores) / 2
    assert_close(metrics["roc"]["area"], above, FIGURE)
    for row, one in zip(metrics["held_out"], unseen, strict=True):
        assert_close(
            row["guarded_perturbed_accuracy"]["value"], np.mean(one.guarded == labels), FIGURE
        )


def test_the_adaptive_figure_is_the_worst_of_all_surrogates(
    evaluation: Evaluation, guarded: GuardedClassifier, test_set: Pictures
) -> None:
    rows = evaluation.metrics["adaptive"]
    assert [row["surrogate"] for row in rows] == list(SURROGATES)
    stored = load_file(evaluation.out / "adaptive.safetensors")
    values = []
    for row in rows:
        starts = []
        for start in range(STARTS):
            perturbation = stored[f"{row['surrogate']}@1#{start}"]
            assert 0.9 < float(norm_of(perturbation, "linf")) / EPSILON <= 1 + BALL.absolute
            found = answers(guarded, test_set, perturbation)
            starts.append(float(np.mean(found.guarded == found.labels)))
        values.append(min(starts))
        assert starts[row["start"]] == values[-1]
        assert_close(row["guarded_perturbed_accuracy"]["value"], values[-1], FIGURE)
    assert len(set(values)) > 1
    assert_close(evaluation.metrics["adaptive_accuracy"]["value"], min(values), FIGURE)
    assert min(values) < evaluation.metrics["guarded_perturbed_accuracy"]["value"]


def test_fooling_against_epsilon(
    evaluation: Evaluation, guarded: GuardedClassifier, test_set: Pictures
) -> None:
    rows = evaluation.metrics["fooling_against_epsilon"]
    scales = [0.25, 0.5, 0.75, 1.0, 1.5, 2.0]
    assert_close([row["epsilon"] / EPSILON for row in rows], scales, FIGURE)
    same = next(row for row in rows if row["epsilon"] == EPSILON)
    for column in ("undefended", "guarded"):
        assert same[column] == evaluation.metrics[f"{column}_fooling_rate"]
        assert rows[0][column]["value"] < rows[-1][column]["value"]
    stored = load_file(evaluation.out / "adaptive.safetensors")
    worst = _worst(evaluation.metrics)
    clean = answers(guarded, test_set)
    for scale, row in zip(scales, rows, strict=True):
        assert ("adaptive" in row) == (scale in {0.5, 1.0, 2.0})
        if "adaptive" in row:
            perturbation = stored[f"{worst['surrogate']}@{scale:g}#{worst['start']}"]
            length = float(norm_of(perturbation, "linf")) / (scale * EPSILON)
            assert 0.9 < length <= 1 + BALL.absolute
            changed = np.mean(answers(guarded, test_set, perturbation).guarded != clean.bare)
            assert_close(row["adaptive"]["value"], changed, FIGURE)


@pytest.fixture
def again(evaluation: Evaluation, tmp_path: Path) -> Evaluation:
    """A copy of the evaluation, to be written to."""
    out = tmp_path / "evaluation"
    shutil.copytree(evaluation.out, out)
    return Evaluation(out, evaluation.metrics)


def _forbidden(*_: object, **__: object) -> NoReturn:
    pytest.fail("An attack was crafted anew.")


def test_the_same_evaluation_is_not_done_twice(
    again: Evaluation, guard_folder: Path, work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptive, "adaptive_perturbation", _forbidden)
    monkeypatch.setattr(module, "answers", _forbidden)
    before = {path: path.stat().st_mtime_ns for path in again.out.rglob("*")}
    assert evaluate_guard(guard_folder, str(work.images), again.out) == again.metrics
    assert {path: path.stat().st_mtime_ns for path in again.out.rglob("*")} == before


@pytest.mark.usefixtures("_short_attacks")
def test_an_interrupted_evaluation_ends_with_the_same_figures(
    evaluation: Evaluation,
    guard_folder: Path,
    work: Workplace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    craft = adaptive.adaptive_perturbation
    crafted: list[str] = []
    stop_at = 4

    def stopping(*arguments: Any, **options: Any) -> torch.Tensor:
        if len(crafted) == stop_at:
            raise KeyboardInterrupt
        crafted.append(arguments[1])
        return craft(*arguments, **options)

    monkeypatch.setattr(adaptive, "adaptive_perturbation", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate_guard(guard_folder, str(work.images), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["adaptive.safetensors"]
    stop_at = 99
    metrics = evaluate_guard(guard_folder, str(work.images), tmp_path)
    every = [name for name in SURROGATES for _ in range(STARTS)]
    assert crafted == [*every, *[_worst(metrics)["surrogate"]] * 2]
    assert _without_time(metrics) == _without_time(evaluation.metrics)
    for name in ("adaptive.safetensors", "examples.safetensors"):
        one, other = load_file(tmp_path / name), load_file(evaluation.out / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("change", ["seed", "files", "limit", "crafting_images"])
def test_another_request_is_measured_anew(
    again: Evaluation,
    guard_folder: Path,
    work: Workplace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    crafted = []

    def noise(*_: object, generator: torch.Generator, **__: object) -> torch.Tensor:
        crafted.append(torch.rand(1, 12, 12, generator=generator) * EPSILON)
        return crafted[-1]

    monkeypatch.setattr(adaptive, "adaptive_perturbation", noise)
    np.save(tmp_path / "own.npy", np.full((1, 12, 12), 0.1))
    changes: dict[str, Any] = {
        "seed": 1,
        "files": [tmp_path / "own.npy"],
        "limit": 30,
        "crafting_images": str(work.images),
    }
    metrics = evaluate_guard(guard_folder, str(work.images), again.out, **{change: changes[change]})
    assert len(crafted) == STARTS * len(SURROGATES) + 2
    assert metrics["request"] != again.metrics["request"]
    assert metrics == json.loads((again.out / "metrics.json").read_text())
    assert metrics["clean_accuracy"]["n"] == (30 if change == "limit" else TEST)
    assert [row["file"] for row in metrics["elsewhere"]] == (
        [str(tmp_path / "own.npy")] if change == "files" else []
    )


def test_perturbations_made_elsewhere_are_measured(
    guarded: GuardedClassifier,
    guard_folder: Path,
    test_set: Pictures,
    work: Workplace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adaptive, "adaptive_perturbation", lambda *_, **__: torch.zeros(1, 12, 12))
    stack = load_bank(guard_folder).perturbations[:2]
    np.savez(tmp_path / "own.npz", perturbations=stack.numpy())
    rows = evaluate_guard(
        guard_folder, str(work.images), tmp_path / "out", files=[tmp_path / "own.npz"]
    )["elsewhere"]
    assert [row["number"] for row in rows] == [0, 1]
    for row, one in zip(rows, stack, strict=True):
        found = answers(guarded, test_set, one)
        assert_close(row["linf"], EPSILON, BALL)
        hit = np.mean(found.guarded == found.labels)
        assert_close(row["guarded_perturbed_accuracy"]["value"], hit, FIGURE)


def test_a_wrong_perturbation_file_is_refused_before_anything_is_done(
    guard_folder: Path, work: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptive, "adaptive_perturbation", _forbidden)
    np.save(tmp_path / "own.npy", np.full((1, 12, 12), 10.0))
    with pytest.raises(DataError, match="--perturbation-scale 255"):
        evaluate_guard(
            guard_folder, str(work.images), tmp_path / "out", files=[tmp_path / "own.npy"]
        )
    assert not (tmp_path / "out").exists()


def test_a_damaged_guard_is_not_evaluated(
    guard_folder: Path, work: Workplace, tmp_path: Path
) -> None:
    folder = tmp_path / "guard"
    shutil.copytree(guard_folder, folder)
    (folder / "rectifier.safetensors").unlink()
    with pytest.raises(ArtifactError, match="missing"):
        evaluate_guard(folder, str(work.images), tmp_path / "out")
    assert not (tmp_path / "out").exists()
