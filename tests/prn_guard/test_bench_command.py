"""`prn-guard bench` on a tiny guard: what it measures, writes and refuses."""

import hashlib
import json
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper

from prn_guard import cli
from prn_guard.bench_sessions import cpu_name, open_both, runs_of
from prn_guard.contract import Manifest
from tests.commands import assert_refused, runner

SIZE, CHANNELS = 8, 3


def _model(nodes, dtype, shape, outputs):
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def _guarded():
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        node("ReduceMean", ["pixels"], ["logits"], axes=[1, 2], keepdims=0),
        node("ReduceMax", ["logits"], ["score"], axes=[1], keepdims=0),
        node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        node("Cast", ["label"], ["flagged"], to=TensorProto.BOOL),
    ]
    kinds = {"logits": 1, "label": TensorProto.INT64, "score": 1, "flagged": TensorProto.BOOL}
    return _model(nodes, TensorProto.UINT8, ["N", SIZE, SIZE, CHANNELS], kinds.items())


def _bare(batch="N"):
    nodes = [helper.make_node("ReduceMean", ["image"], ["logits"], axes=[2, 3], keepdims=0)]
    return _model(nodes, TensorProto.FLOAT, [batch, CHANNELS, SIZE, SIZE], [("logits", 1)])


def _write(folder, *, bare=None, wrapped=None):
    files = {"guarded.onnx": _guarded()} | ({"bare.onnx": bare} if bare else {})
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    digest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    parity = dict.fromkeys(
        ("label_mismatches", "flag_mismatches", "inside_margin", "max_logit_difference",
         "max_score_difference"), 0,
    )  # fmt: skip
    Manifest.model_validate(
        {
            "created_by": "tests", "versions": {}, "opset": 17, "precision": "fp32",
            "input": {"channels": 3, "height": SIZE, "width": SIZE, "pixel_range": 255,
                      "mean": (10, 20, 30), "std": (2, 4, 5), "channel_order": "bgr"},
            "tensor": {"name": "image", "dtype": "uint8", "layout": "nhwc"},
            "class_names": ("a", "b", "c"), "names": {},
            "outputs": ("logits", "label", "score", "flagged"),
            "classifier": {"source": "onnx", "digest": "0" * 64,
                           "file_sha256": hashlib.sha256(wrapped or _bare()).hexdigest()},
            "trained_against": {"norm": "linf", "epsilon": 0.04},
            "detection": {"threshold": 0, "fitted_threshold": 0, "calibration_pictures": 9,
                          "target_false_positive_rate": 0.01},
            "parity": parity | {"pictures": 9, "score_margin": 1, "logit_margin": 1,
                                "unflagged_bit_equal": True},
            "placement": {"basis": "session", "onnxruntime": "1", "nodes": 5, "on_cpu": ()},
            "files": [{"name": name, "sha256": digest[name], "size_bytes": len(content)}
                      for name, content in files.items()],
        }
    ).write(folder)  # fmt: skip
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    return runner(cli.main, "prn-guard", monkeypatch, capsys)


def test_both_get_the_same_pictures_each_in_its_own_form(tmp_path):
    both = open_both(_write(tmp_path / "g", bare=_bare()), bare=None, device="cpu", threads=1)
    guarded, bare = runs_of(both, [2, 5], seed=3)
    rgb = guarded(5)[0]  # means of the pixels, 0..255
    expected = (rgb[:, ::-1] - np.array([10, 20, 30])) / np.array([2, 4, 5])
    np.testing.assert_allclose(bare(5)[0], expected, rtol=1e-5)
    assert len(bare(2)[0]) == len(guarded(2)[0]) == 2


def test_the_command_writes_figures_and_facts_and_a_plot(run, tmp_path):
    folder, out = _write(tmp_path / "g", bare=_bare()), tmp_path / "out.json"
    ended = run("bench", folder, "--batch-sizes", "4,1", "--seconds", 0, "--threads", 1,
                "--json", out, "--plot", tmp_path / "p.svg")  # fmt: skip
    assert ended.code == 0, ended
    result = json.loads(out.read_text())
    assert [row["batch_size"] for row in result["results"]] == [1, 4]
    assert result["facts"]["provider"] == "CPUExecutionProvider"
    assert result["facts"]["threads"] == 1
    assert "x bare" in ended.out
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")


def test_without_a_bare_classifier_both_ways_are_named(run, tmp_path):
    assert_refused(run("bench", _write(tmp_path / "g")), "--with-bare", "--bare FILE")


def test_another_classifier_than_the_wrapped_one_is_refused(run, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(_bare(batch=1))
    ended = run("bench", _write(tmp_path / "g"), "--bare", other)
    assert_refused(ended, "is not the classifier inside the guard")


def test_a_fixed_batch_axis_allows_that_size_only(run, tmp_path):
    fixed = _bare(batch=4)
    (tmp_path / "fixed.onnx").write_bytes(fixed)
    folder = _write(tmp_path / "g", wrapped=fixed)
    command = ["bench", folder, "--bare", tmp_path / "fixed.onnx", "--seconds", 0]
    assert_refused(run(*command), "fixed at 4", "--batch-sizes 4")
    assert run(*command, "--batch-sizes", 4).code == 0


@pytest.mark.parametrize("sizes", ["", "1,x", "0,4"])
def test_batch_sizes_that_are_none_are_refused(run, tmp_path, sizes):
    assert_refused(run("bench", tmp_path, "--batch-sizes", sizes), "expected whole numbers")


def test_a_plot_without_matplotlib_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert_refused(run("bench", tmp_path, "--plot", tmp_path / "p.svg"), "prn-guard[reports]")
    assert_refused(run("bench", tmp_path, "--plot", tmp_path / "p.gif"), ".svg, .png or .pdf")


def test_the_cpu_is_unknown_where_nothing_states_it(tmp_path):
    assert cpu_name(tmp_path / "none") == "unknown"
    (tmp_path / "info").write_text("processor : 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert cpu_name(tmp_path / "info") == "Some CPU @ 2 GHz"
