import json
import os
from pathlib import Path
from typing import Any

import pytest

from prn_guard.errors import ArtifactError, StorageError
from prn_guard.files import read_json
from tests.training.evaluation.page import rendered
from tests.training.evaluation.sample import examples, metrics, write_evaluation, write_guard
from training.evaluation.report import write_report


@pytest.fixture
def guard(tmp_path: Path) -> Path:
    write_guard(tmp_path / "guard")
    return tmp_path / "guard"


@pytest.fixture
def evaluation(guard: Path) -> Path:
    write_evaluation(guard.parent / "evaluation", metrics(guard))
    return guard.parent / "evaluation"


@pytest.mark.parametrize(
    "lost",
    [
        "guard/guard.json", "guard/bank.safetensors", "guard/rectifier.safetensors",
        "guard/detector.safetensors", "evaluation/metrics.json", "evaluation/examples.safetensors",
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_missing_and_damaged_files_are_refused_and_nothing_is_written(
    guard: Path, evaluation: Path, lost: str, how: str
) -> None:
    path = guard.parent / lost
    path.unlink() if how == "missing" else path.write_bytes(b'{"half": ')
    with pytest.raises(ArtifactError):
        rendered(guard, evaluation)
    assert not (guard.parent / "report.html").exists()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("clean_accuracy",), None),
        (("clean_accuracy", "value"), float("nan")),
        (("adaptive",), []),
        (("roc", "detection_at"), {"0.01": 0.5}),
        (("held_out", 0, "guarded_fooling_rate"), {"value": "0.5"}),
        (("threat_model", "norm"), "l1"),
        (("setting", "hardware"), 3),
    ],
)
def test_a_metrics_file_without_a_figure_is_refused_with_its_place(
    guard: Path, evaluation: Path, place: tuple[Any, ...], value: Any
) -> None:
    content = inner = read_json(evaluation / "metrics.json")
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    (evaluation / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=rf"{place[0]}.*Evaluate the guard anew"):
        rendered(guard, evaluation)


def test_examples_that_are_incomplete_or_of_another_size_are_refused(
    guard: Path, evaluation: Path
) -> None:
    content = read_json(evaluation / "metrics.json")
    tensors = examples()
    write_evaluation(evaluation, content, {k: v for k, v in tensors.items() if k != "score"})
    with pytest.raises(ArtifactError, match="lacks score"):
        rendered(guard, evaluation)
    write_evaluation(evaluation, content, tensors | {"rectified": tensors["rectified"][:, :, 1:]})
    with pytest.raises(ArtifactError, match=r"rectified has shape \(2, 1, 7, 8\)"):
        rendered(guard, evaluation)


def test_an_evaluation_of_another_guard_is_refused(guard: Path, evaluation: Path) -> None:
    (guard / "detector.safetensors").write_bytes(b"fitted anew")
    with pytest.raises(ArtifactError, match="another detector"):
        rendered(guard, evaluation)


def test_a_write_that_fails_leaves_the_old_report(
    guard: Path, evaluation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = guard.parent / "report.html"
    out.write_text("the old one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_report(guard, evaluation, out)
    assert out.read_text() == "the old one"
    assert not list(guard.parent.glob(".report*"))
