"""The tiny guard, exported once, and the same guard in front of ONNX files of its target."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from export import pipeline
from export.classifier_graph import ClassifierGraph, from_torch
from export.deliveries import as_integers
from export.guard_front import GuardFront
from export.pipeline import ExportOptions, export_guard, guarded_graph
from export.splice import GuardedGraph
from prn_guard.contract import Manifest
from prn_guard.nn.guarded import GuardedClassifier
from tests.commands import Run, runner
from tests.training.small import NAMES, SHAPE, everything
from tests.training.tiny_guard import Workplace
from training.datasets import Pictures, load_pictures
from training.evaluation.outcomes import as_delivered
from training.guard.folder import load_bank, load_guard


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Networks this small spend most of two threads' time waiting: 2.7 s against 0.06 s per attack.
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Artifact:
    """What was exported, and its parts."""

    folder: Path
    manifest: Manifest
    graph: GuardedGraph
    classifier: ClassifierGraph


@pytest.fixture(scope="session")
def artifact(guard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The exported guard, with the bare classifier; not to be written to."""
    folder = tmp_path_factory.mktemp("exported") / "guarded"
    options = ExportOptions(with_bare=True)
    manifest = export_guard(guard_folder, folder, options)
    guarded, _ = load_guard(guard_folder)
    classifier = from_torch(guarded.target, precision="fp32")
    return Artifact(folder, manifest, guarded_graph(guarded, classifier, options), classifier)


@pytest.fixture(scope="session")
def in_front_of(
    guard_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A function from an ONNX file that computes the tiny target to its guard folder.

    The guard is the one that was fitted to the torch module: a fit to the file would find the same,
    and takes as long for every file. `layout` is the file's.
    """

    def wrap(model: onnx.ModelProto, layout: str = "nchw") -> Path:
        folder = tmp_path_factory.mktemp("wrapped") / "guard"
        shutil.copytree(guard_folder, folder)
        content = model.SerializeToString()
        (folder / "target.onnx").write_bytes(content)
        (folder / "target.safetensors").unlink()
        record = json.loads((folder / "guard.json").read_text())
        record["target_digest"] = hashlib.sha256(content).hexdigest()
        del record["files"]["target.safetensors"]
        record["files"]["target.onnx"] = record["target_digest"]
        record["input"]["layout"] = layout
        (folder / "guard.json").write_text(json.dumps(record))
        return folder

    return wrap


@pytest.fixture(scope="session")
def fronts() -> dict[str, onnx.ModelProto]:
    """The guard's exported front by what it depends on."""
    return {}


@pytest.fixture
def same_front(fronts: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch) -> None:
    """Export the front, which takes two seconds, once for all classifiers that it stands before."""
    export = pipeline.front_model

    def front_model(front: GuardFront) -> onnx.ModelProto:
        half = next(front.rectifier.parameters()).dtype
        threshold = float(front.detector.threshold)
        key = repr((front.spec, front.outputs, front.tensor, half, threshold))
        if key not in fronts:
            fronts[key] = export(front)
        return fronts[key]

    monkeypatch.setattr(pipeline, "front_model", front_model)


@pytest.fixture
def quick_export(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the graphs that were exported already."""
    monkeypatch.setattr("export.pipeline.guarded_graph", lambda *_: artifact.graph)
    monkeypatch.setattr("export.pipeline.from_torch", lambda *_, **__: artifact.classifier)


@pytest.fixture
def guarded(guard_folder: Path) -> GuardedClassifier:
    return load_guard(guard_folder)[0]


@pytest.fixture(scope="session")
def test_set(work: Workplace) -> Pictures:
    return load_pictures(str(work.images), split="test", size=SHAPE, class_count=len(NAMES))


@pytest.fixture(scope="session")
def pixels(test_set: Pictures, guard_folder: Path) -> NDArray[np.uint8]:
    """Every test picture clean and perturbed, `(180, 12, 12, 1)`."""
    images = everything(test_set)
    perturbed = as_delivered(images, load_bank(guard_folder).unseen[0])
    return np.concatenate([as_integers(images), as_integers(perturbed)])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `python -m export` in this process."""
    from export import cli

    return runner(cli.main, "python -m export", monkeypatch, capsys)


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `python -m training` in this process."""
    from training import cli

    return runner(cli.main, "python -m training", monkeypatch, capsys)
