"""The artifact folder: what the runtime reads from it, and that it changes whole or not at all."""

import shutil
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnxruntime
import pytest
import torch

from export.parity import Margins
from export.pipeline import ExportOptions, export_guard
from prn_guard import Guard
from prn_guard.contract import Manifest
from prn_guard.errors import ArtifactError, DataError, InvalidArgumentError, StorageError
from prn_guard.nn.guarded import GuardedClassifier
from tests.export.conftest import Artifact
from tests.tolerances import LOGIT, SCORE, assert_close
from tests.training.small import everything
from training.datasets import Pictures
from training.evaluation.outcomes import answers, as_delivered
from training.guard.folder import load_bank, read_record


@pytest.mark.parametrize("perturbed", [True, False])
def test_the_runtime_answers_as_the_torch_modules(
    artifact: Artifact,
    guarded: GuardedClassifier,
    test_set: Pictures,
    guard_folder: Path,
    *,
    perturbed: bool,
) -> None:
    perturbation = load_bank(guard_folder).unseen[0] if perturbed else None
    expected = answers(guarded, test_set, perturbation)
    seen = as_delivered(everything(test_set), perturbation)
    pixels = (seen * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    verdict = Guard(artifact.folder).classify(np.ascontiguousarray(pixels), batch_size=32)
    assert_close(verdict.score, expected.scores, SCORE)
    assert np.array_equal(verdict.flagged, expected.flagged)
    assert np.array_equal(verdict.label, expected.guarded)
    assert 0 < verdict.flagged.sum() < len(verdict)
    with torch.no_grad():
        assert_close(verdict.logits, guarded(seen).logits, LOGIT)


def test_unflagged_logits_are_bit_equal_to_the_bare_classifiers(
    artifact: Artifact, test_set: Pictures
) -> None:
    images = everything(test_set)
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    verdict = Guard(artifact.folder).classify(pixels, batch_size=len(pixels))
    bare = onnxruntime.InferenceSession(
        artifact.folder / "bare.onnx", providers=["CPUExecutionProvider"]
    )
    (logits,) = bare.run(["logits"], {"image": ((images - 0.5) / 0.25).numpy()})
    assert logits.dtype == verdict.logits.dtype == np.float32
    same = (logits.view(np.int32) == verdict.logits.view(np.int32)).all(axis=1)
    assert np.array_equal(same[~verdict.flagged], np.ones((~verdict.flagged).sum(), dtype=bool))
    assert not same[verdict.flagged].all()


def test_the_manifest_says_what_the_record_says(
    artifact: Artifact, guarded: GuardedClassifier, guard_folder: Path
) -> None:
    manifest, record = Manifest.read(artifact.folder), read_record(guard_folder)
    assert manifest == artifact.manifest
    assert manifest.detection.threshold == float(guarded.detector.threshold) == record.threshold
    assert manifest.detection.target_false_positive_rate == record.false_positive_rate
    assert manifest.detection.calibration_pictures == record.calibration_pictures
    assert (manifest.input, manifest.class_names) == (record.input, record.class_names)
    assert (manifest.trained_against.norm, manifest.trained_against.epsilon) == ("linf", 0.15)
    assert manifest.detection.fitted_threshold == record.threshold
    assert (manifest.opset, manifest.precision) == (20, "fp32")
    assert (manifest.classifier.source, manifest.classifier.file_sha256) == ("torch", None)
    assert manifest.placement.on_cpu == ()
    assert [entry.name for entry in manifest.files] == ["guarded.onnx", "bare.onnx"]
    assert {"onnx", "onnxruntime", "torch", "prn-guard"} <= manifest.versions.keys()


def test_the_folder_holds_nothing_else_and_can_be_read_by_all(artifact: Artifact) -> None:
    names = sorted(path.name for path in artifact.folder.iterdir())
    assert names == ["bare.onnx", "guarded.onnx", "manifest.json"]
    assert [path.name for path in artifact.folder.parent.iterdir()] == [artifact.folder.name]
    assert artifact.folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.usefixtures("quick_export")
def test_an_earlier_export_is_replaced(
    artifact: Artifact, guard_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "guarded"
    shutil.copytree(artifact.folder, out)
    (out / "guarded.onnx").write_bytes(b"old")
    manifest = export_guard(guard_folder, out, ExportOptions(limit=30))
    assert manifest.parity.pictures == 60
    assert Guard(out).manifest == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["guarded"]


@pytest.mark.usefixtures("quick_export")
def test_a_link_stays_and_what_it_leads_to_is_replaced(
    artifact: Artifact, guard_folder: Path, tmp_path: Path
) -> None:
    there, link = tmp_path / "versions" / "guarded", tmp_path / "links" / "current"
    shutil.copytree(artifact.folder, there)
    (there / "guarded.onnx").write_bytes(b"old")
    link.parent.mkdir()
    link.symlink_to(there)
    manifest = export_guard(guard_folder, link, ExportOptions(limit=30))
    assert link.is_symlink()
    assert not there.is_symlink()
    assert Guard(there).manifest == manifest
    assert [path.name for path in (*there.parent.iterdir(), *link.parent.iterdir())] == [
        "guarded",
        "current",
    ]


def test_a_link_to_nothing_is_refused(guard_folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(InvalidArgumentError, match=r"leads nowhere .*gone"):
        export_guard(guard_folder, link, ExportOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["current"]


@pytest.mark.parametrize("name", ["thesis.txt", "guard.json"])
def test_a_folder_of_other_files_is_refused(
    artifact: Artifact, guard_folder: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(artifact.folder, tmp_path / "out")
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(InvalidArgumentError, match="other files"):
        export_guard(guard_folder, tmp_path / "out", ExportOptions())
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InvalidArgumentError, match="other files"):
        export_guard(guard_folder, tmp_path / "file", ExportOptions())
    assert (tmp_path / "out" / name).read_text() == "mine"


def _full(*_: object, **__: object) -> NoReturn:
    raise OSError(28, "No space left on device")


@pytest.mark.usefixtures("quick_export")
@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("failing", ["graph", "manifest", "swap"])
def test_a_failing_write_keeps_the_old_artifact(
    artifact: Artifact,
    guard_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    *,
    existing: bool,
) -> None:
    out = tmp_path / "guarded"
    if existing:
        shutil.copytree(artifact.folder, out)
    rename = Path.rename

    def failing_rename(path: Path, to: Path) -> Path:
        if to == out and not path.name.endswith(".old"):
            _full()
        return rename(path, to)

    if failing == "graph":
        monkeypatch.setattr("prn_guard.files._fill", _full)
    elif failing == "manifest":
        monkeypatch.setattr("prn_guard.contract.write_json", _raise_storage_error)
    else:
        monkeypatch.setattr(Path, "rename", failing_rename)
    with pytest.raises(StorageError, match="No space left"):
        export_guard(guard_folder, out, ExportOptions(limit=5))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == (["guarded"] if existing else [])
    if existing:
        assert Guard(out).manifest == artifact.manifest


def _raise_storage_error(*_: object) -> NoReturn:
    raise StorageError("manifest.json could not be written: No space left on device.")


@pytest.mark.usefixtures("quick_export")
def test_a_place_that_cannot_be_written_is_named(guard_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"beside .*guarded"):
        export_guard(guard_folder, tmp_path / "file" / "guarded", ExportOptions(limit=5))


@pytest.mark.usefixtures("quick_export")
def test_disparity_writes_nothing(
    guard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = {"fp32": Margins(score=1e-12, logit=1e-3)}
    monkeypatch.setattr("export.pipeline.MARGINS", strict)
    with pytest.raises(ArtifactError, match="does not decide as the torch modules"):
        export_guard(guard_folder, tmp_path / "out", ExportOptions(limit=30))
    assert list(tmp_path.iterdir()) == []


def test_damage_and_missing_pictures_are_noticed_before_the_work(
    guard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.pipeline.guarded_graph", lambda *_: pytest.fail("exported"))
    elsewhere = ExportOptions(images=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no such folder"):
        export_guard(guard_folder, tmp_path / "out", elsewhere)
    copy = tmp_path / "guard"
    shutil.copytree(guard_folder, copy)
    content = bytearray((copy / "detector.safetensors").read_bytes())
    content[-2] ^= 4
    (copy / "detector.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"detector\.safetensors has changed"):
        export_guard(copy, tmp_path / "out", ExportOptions())
    assert not (tmp_path / "out").exists()
