"""The threshold of a graph in half precision is the quantile of its own scores."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from export.calibration import calibrated_threshold
from export.deliveries import as_integers
from export.pipeline import ExportOptions, export_guard
from export.splice import set_threshold
from prn_guard import Guard
from prn_guard.errors import DataError
from prn_guard.nn.guarded import GuardedClassifier
from tests.export.conftest import Artifact
from tests.tolerances import HALF_SCORE, SCORE, assert_close
from tests.training.small import everything
from training.datasets import Pictures
from training.guard.folder import load_guard, read_record
from training.guard.pictures import recorded_pictures
from training.guard.splits import split_pictures


@pytest.fixture(scope="module")
def half(guard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """The tiny guard in float16, exported."""
    out = tmp_path_factory.mktemp("half") / "guarded"
    export_guard(guard_folder, out, ExportOptions(precision="fp16"))
    return Guard(out)


def test_the_full_graph_asks_for_the_threshold_that_the_fit_found(
    artifact: Artifact, guard_folder: Path
) -> None:
    record = read_record(guard_folder)
    found = calibrated_threshold(
        artifact.graph, record, guard_folder, data_folder=None, device="cpu"
    )
    assert_close(found, record.threshold, SCORE)


def test_the_half_graph_flags_the_share_that_was_asked_for(half: Guard, guard_folder: Path) -> None:
    record = read_record(guard_folder)
    training = recorded_pictures(record, record.images, "train", limit=record.limit)
    calibration = everything(split_pictures(training, seed=record.seed).calibration)
    verdict = half.classify(as_integers(calibration))
    rank = math.ceil((len(calibration) + 1) * (1 - record.false_positive_rate))
    detection = half.manifest.detection
    assert detection.threshold == float(np.sort(verdict.score)[rank - 1])
    assert verdict.flagged.sum() == len(calibration) - rank
    assert detection.fitted_threshold == record.threshold != detection.threshold
    assert_close(detection.threshold, record.threshold, HALF_SCORE)


def test_half_precision_is_half_precision(half: Guard, artifact: Artifact) -> None:
    assert half.manifest.precision == "fp16"
    sizes = half.manifest.files[0].size_bytes, artifact.manifest.files[0].size_bytes
    assert sizes[0] < sizes[1]
    assert half.manifest.classifier.digest != artifact.manifest.classifier.digest


def test_it_decides_as_the_full_one_but_close_to_the_threshold(
    half: Guard, guarded: GuardedClassifier, test_set: Pictures
) -> None:
    images = everything(test_set)
    verdict = half.classify(as_integers(images))
    with torch.no_grad():
        full = guarded(images)
    margin = half.manifest.parity.score_margin
    clear = (full.score - guarded.detector.threshold).abs().numpy() > margin
    assert clear.sum() > 50
    assert np.array_equal(verdict.flagged[clear], full.flagged.numpy()[clear])
    assert half.manifest.parity.unflagged_bit_equal


def test_the_threshold_that_the_graph_has_makes_no_difference(
    artifact: Artifact, guard_folder: Path
) -> None:
    guarded, record = load_guard(guard_folder)
    set_threshold(artifact.graph.model, 0.25)
    try:
        scores = calibrated_threshold(
            artifact.graph, record, guard_folder, data_folder=None, device="cpu"
        )
    finally:
        set_threshold(artifact.graph.model, record.threshold)
    assert_close(scores, float(guarded.detector.threshold), SCORE)


def test_other_training_pictures_are_refused(artifact: Artifact, guard_folder: Path) -> None:
    record = read_record(guard_folder).model_copy(update={"limit": 120})
    with pytest.raises(DataError, match="calibration pictures; the guard was calibrated on"):
        calibrated_threshold(artifact.graph, record, guard_folder, data_folder=None, device="cpu")


def test_as_many_other_pictures_are_refused(
    artifact: Artifact, guard_folder: Path, tmp_path: Path
) -> None:
    record, request = read_record(guard_folder), guard_folder / "request.json"
    stated = json.loads(request.read_text())
    stated["pictures"] = stated["pictures"].replace(stated["pictures"][-4:], "0000")
    (tmp_path / "request.json").write_text(json.dumps(stated))
    with pytest.raises(DataError, match="now gives other pictures or labels"):
        calibrated_threshold(artifact.graph, record, tmp_path, data_folder=None, device="cpu")


@pytest.mark.parametrize("content", [None, "{}", "[1]", "no json"])
def test_a_guard_that_does_not_say_its_pictures_is_refused(
    artifact: Artifact, guard_folder: Path, tmp_path: Path, content: str | None
) -> None:
    record = read_record(guard_folder)
    if content is not None:
        (tmp_path / "request.json").write_text(content)
    with pytest.raises(DataError, match=r"request\.json is missing or damaged"):
        calibrated_threshold(artifact.graph, record, tmp_path, data_folder=None, device="cpu")
