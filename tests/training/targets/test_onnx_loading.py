"""An ONNX file as the target of the command lines: read, fitted, kept, restored."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from prn_guard.errors import ArtifactError, TargetError
from prn_guard.files import sha256_of
from prn_guard.nn.target import state_digest
from tests.commands import Run, assert_refused
from tests.tolerances import CONVOLUTION, assert_close
from tests.training import tiny_onnx as tiny
from tests.training.tiny_guard import FIT, Workplace
from training.guard.folder import load_guard, read_record, stored_onnx
from training.targets import InputOptions, load_target

RANGE = InputOptions(pixel_range=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny.content(tiny.model()))
    return path


def test_the_scale_is_applied_outside_the_file(model: Path) -> None:
    options = InputOptions(pixel_range=255, mean=(100.0,), std=(50.0,))
    loaded = load_target(str(model), input_options=options)
    images = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    expected = tiny.twin((images.double() * 255 - 100) / 50)
    assert_close(loaded.target(images).numpy(), expected.numpy(), CONVOLUTION)
    assert loaded.class_count == tiny.CLASSES
    assert loaded.digest() == sha256_of(model)


def test_the_range_must_be_stated(model: Path) -> None:
    with pytest.raises(TargetError, match=r"--pixel-range 1 where.*--pixel-range 255.*ruins"):
        load_target(str(model))


def test_weights_beside_an_onnx_file_are_refused(model: Path) -> None:
    with pytest.raises(TargetError, match="Leave --weights away"):
        load_target(str(model), weights="w.pt", input_options=RANGE)


def test_an_open_size_is_taken_from_the_options(tmp_path: Path) -> None:
    path = tmp_path / "open.ONNX"
    path.write_bytes(tiny.content(tiny.model(shape=("n", 1, "h", "w"))))
    options = dataclasses.replace(RANGE, shape=(1, 12, 12))
    assert load_target(str(path), input_options=options).target.spec.shape == (1, 12, 12)


@pytest.mark.usefixtures("_quick_work")
def test_fit_and_evaluate_an_onnx_file(
    run: Run, work: Workplace, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "guard"
    command = (
        *("fit", "--target", model, "--pixel-range", 1, "--images", work.images),
        *("--test-images", work.images, "--epsilon", 0.3, *FIT, "--out", out),
    )
    assert run(*command).code == 0
    assert "holds this very guard already" in run(*command).out
    assert (out / "target.onnx").read_bytes() == model.read_bytes()
    assert not (out / "target.safetensors").exists()
    record = read_record(out)
    assert record.target_digest == record.files["target.onnx"] == sha256_of(model)

    before = load_target(str(model), input_options=RANGE)
    model.write_bytes(tiny.content(tiny.softmax()))
    assert_refused(run(*command), "another target weights")
    model.unlink()
    assert state_digest(load_guard(out)[0].target) == state_digest(before.target)
    stored = stored_onnx(out, record)
    assert stored is not None
    assert stored.content == (out / "target.onnx").read_bytes()
    evaluation = tmp_path / "evaluation"
    ended = run("evaluate", out, "--images", work.images, "--limit", 30, "--out", evaluation)
    assert ended.code == 0
    assert (evaluation / "metrics.json").exists()
    _assert_damage_is_noticed(out, tmp_path / "copy")


def _assert_damage_is_noticed(out: Path, copy: Path) -> None:
    shutil.copytree(out, copy)
    content = bytearray((copy / "target.onnx").read_bytes())
    content[-40] ^= 1
    (copy / "target.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"target\.onnx has changed since"):
        load_guard(copy)
    (copy / "target.onnx").write_bytes(tiny.content(tiny.softmax()))
    with pytest.raises(ArtifactError, match="the guard was fitted to"):
        stored_onnx(copy, read_record(copy))
    record = json.loads((copy / "guard.json").read_text())
    record["files"]["target.onnx"] = sha256_of(copy / "target.onnx")
    (copy / "guard.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="the guard was fitted to"):
        load_guard(copy)
    (copy / "target.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"target\.onnx"):
        load_guard(copy)


def test_a_guard_of_a_module_holds_no_onnx_file(guard_folder: Path) -> None:
    assert stored_onnx(guard_folder, read_record(guard_folder)) is None
