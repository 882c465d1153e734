"""`python -m export check`: what it prints, and how it ends."""

import json
from pathlib import Path

import pytest

from export import cli
from tests.commands import Run, assert_refused, runner
from tests.export.small_graphs import model, node


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(cli.main, "python -m export", monkeypatch, capsys)


def pooling(folder: Path, opset: int) -> Path:
    path = folder / f"pooling_{opset}.onnx"
    small = model(
        [node("Relu", "x", "r"), node("MaxPool", "r", "y", kernel_shape=[2, 2])], opset=opset
    )
    path.write_bytes(small.SerializeToString())
    return path


def test_a_graph_wholly_on_the_gpu(run: Run, tmp_path: Path) -> None:
    ended = run("check", pooling(tmp_path, 20), "--json", tmp_path / "p.json")
    assert ended.code == 0
    assert ended.out == "All 2 nodes have a CUDA kernel of onnxruntime 1.31.1 (kernel table).\n"
    assert json.loads((tmp_path / "p.json").read_text()) == {
        "basis": "kernel table",
        "onnxruntime": "1.31.1",
        "nodes": 2,
        "on_cpu": [],
        "fallbacks": [],
    }


def test_nodes_that_fall_back(run: Run, tmp_path: Path) -> None:
    ended = run("check", pooling(tmp_path, 22), "--json", tmp_path / "p.json")
    assert ended.code == 1
    assert ended.err == ""
    assert "1 of 2 nodes would run on the CPU under onnxruntime 1.31.1" in ended.out
    for part in ("MaxPool_y", "MaxPool 22", "T=float", "not for 22", "docs/check-refuses.md"):
        assert part in ended.out, part
    result = json.loads((tmp_path / "p.json").read_text())
    assert result["on_cpu"] == ["MaxPool_y"]
    assert result["fallbacks"][0]["since_version"] == 22


def test_what_is_no_graph_is_refused(run: Run, tmp_path: Path) -> None:
    assert_refused(run("check", tmp_path / "none.onnx"), "none.onnx cannot be read", "Name an")
    assert_refused(run("check", tmp_path), "manifest.json is missing")
    (tmp_path / "text.onnx").write_text("not a model")
    assert_refused(
        run("check", tmp_path / "text.onnx"), "text.onnx", "no ONNX model", "Name an .onnx file"
    )
    path = pooling(tmp_path, 20)
    assert_refused(run("check", path, "--device", "tpu"), "'tpu'", "one of 'table', 'cuda'")


def test_a_gpu_that_is_not_there_is_an_error(run: Run, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert_refused(run("check", pooling(tmp_path, 20), "--device", "cuda"), "Install prn-guard")
