"""`prn-guard bench` on a tiny guard: what it measures, writes and refuses."""

import json
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper

from prn_guard import cli
from prn_guard.contract import Manifest
from prn_guard.signing import sign_manifest
from tests.commands import assert_refused, runner
from tests.prn_guard.tiny import write_keys
from tests.tiny_guard import bare_graph, picture_graph, small_model, write_guard

_IDENTITY = [helper.make_node("Identity", ["image"], ["same"])]
_CONSTANT = [helper.make_node("Constant", [], ["same"], value_float=1.0)]


@pytest.fixture
def run(monkeypatch, capsys):
    return runner(cli.main, "prn-guard", monkeypatch, capsys)


def test_the_command_writes_figures_and_facts_and_a_plot(run, tmp_path):
    folder, out = write_guard(tmp_path / "g", bare=bare_graph()), tmp_path / "out.json"
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
    assert_refused(run("bench", write_guard(tmp_path / "g")), "--with-bare", "--bare FILE")


def test_another_classifier_than_the_wrapped_one_is_refused(run, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(bare_graph(batch=1))
    ended = run("bench", write_guard(tmp_path / "g"), "--bare", other)
    assert_refused(ended, "is not the classifier inside the guard")


def from_torch(folder):
    """Edit the manifest to one that has no digest of the classifier's file."""
    manifest = Manifest.parse((folder / "manifest.json").read_bytes(), folder)
    classifier = manifest.classifier.model_copy(update={"source": "torch", "file_sha256": None})
    manifest.model_copy(update={"classifier": classifier}).write(folder)
    return folder


def test_a_file_without_a_digest_is_compared_by_its_classes(run, tmp_path):
    folder, path = from_torch(write_guard(tmp_path / "g")), tmp_path / "bare.onnx"
    axes = numpy_helper.from_array(np.array([1, 2, 3]), "axes")
    nodes = [helper.make_node("ReduceSum", ["image", "axes"], ["same"], keepdims=0)]
    path.write_bytes(picture_graph(nodes, 1, "nchw", weights=[axes]))
    command = ["bench", folder, "--bare", path, "--seconds", 0, "--batch-sizes", "2,3"]
    assert_refused(run(*command), "answers 2 pictures with [(2,)]; expected logits (2, 3)")
    path.write_bytes(bare_graph())
    ended = run(*command, "--json", tmp_path / "out.json")
    assert ended.code == 0, ended
    assert json.loads((tmp_path / "out.json").read_text())["facts"]["bare_verified"] is False
    assert "only its number of classes was compared" in " ".join(ended.out.split())


def test_a_difference_of_precision_is_said(run, tmp_path):
    folder, path = write_guard(tmp_path / "g"), tmp_path / "bare.onnx"
    path.write_bytes(bare_graph())
    manifest = Manifest.parse((folder / "manifest.json").read_bytes(), folder)
    command = ["bench", folder, "--bare", path, "--seconds", 0, "--batch-sizes", 1]
    assert "the ratio holds that difference" not in " ".join(run(*command).out.split())
    manifest.model_copy(update={"precision": "fp16"}).write(folder)
    ended = run(*command, "--json", tmp_path / "out.json")
    assert "The guard is fp16, the bare classifier fp32" in " ".join(ended.out.split())
    facts = json.loads((tmp_path / "out.json").read_text())["facts"]
    assert (facts["precision"], facts["bare_precision"]) == ("fp16", "fp32")
    assert facts["bare_verified"] is True


def test_a_fixed_batch_axis_allows_that_size_only(run, tmp_path):
    fixed = bare_graph(batch=4)
    (tmp_path / "fixed.onnx").write_bytes(fixed)
    folder = write_guard(tmp_path / "g", wrapped=fixed)
    command = ["bench", folder, "--bare", tmp_path / "fixed.onnx", "--seconds", 0]
    assert_refused(run(*command), "fixed at 4", "--batch-sizes 4")
    assert run(*command, "--batch-sizes", 4).code == 0


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (lambda: b"", "does not load"),
        (lambda: b"no graph", "does not load"),
        (lambda: picture_graph(_IDENTITY, TensorProto.DOUBLE, "nchw"), "double"),
        (lambda: small_model(_IDENTITY, 1, ["N", 4], [("same", 1)]), "['N', 4]"),
        (lambda: small_model(_IDENTITY, 1, [3], [("same", 1)]), "[3]"),
        (lambda: small_model(_IDENTITY, 1, ["N", 3, 9, 8], [("same", 1)]), "['N', 3, 9, 8]"),
        (lambda: small_model(_CONSTANT, 1, None, [("same", 1)]), "takes nothing"),
    ],
)
def test_bare_classifiers_of_another_kind_are_refused(run, tmp_path, graph, said):
    path = tmp_path / "other.onnx"
    path.write_bytes(graph())
    folder = write_guard(tmp_path / "g", wrapped=graph())
    assert_refused(run("bench", folder, "--bare", path, "--seconds", 0), said)


def test_a_bare_file_that_is_no_file_is_refused(run, tmp_path):
    folder = write_guard(tmp_path / "g")
    assert_refused(run("bench", folder, "--bare", tmp_path), "no plain file")
    assert_refused(run("bench", folder, "--bare", tmp_path / "none.onnx"), "is missing")


def test_the_artifacts_own_bare_graph_is_checked_like_the_guarded_one(run, tmp_path):
    foreign = [helper.make_node("Gelu", ["image"], ["same"], domain="com.microsoft")]
    bare = picture_graph(foreign, 1, "nchw")
    assert_refused(run("bench", write_guard(tmp_path / "g", bare=bare)), "com.microsoft")


def test_a_bare_graph_that_fails_says_so(run, tmp_path):
    odd = numpy_helper.from_array(np.array([-1, 7]), "odd")
    bare = picture_graph(
        [helper.make_node("Reshape", ["image", "odd"], ["same"])], 1, "nchw", weights=[odd]
    )
    ended = run("bench", write_guard(tmp_path / "g", bare=bare), "--batch-sizes", "2,3")
    assert ended.code != 0
    assert "could not run a batch of 2 pictures" in ended.err
    assert "Traceback" not in ended.err


def test_a_signed_guard_is_measured_under_its_key_only(run, tmp_path):
    private, public = write_keys(tmp_path, Ed25519PrivateKey.generate())
    folder = write_guard(tmp_path / "g", bare=bare_graph())
    command = ["bench", folder, "--public-key", public, "--batch-sizes", 1, "--seconds", 0]
    assert_refused(run(*command), "manifest.sig is missing")
    sign_manifest(folder, private)
    assert run(*command).code == 0


def test_time_without_end_is_refused(run, tmp_path):
    folder = write_guard(tmp_path / "g", bare=bare_graph())
    assert_refused(run("bench", folder, "--seconds", "inf"), "inf seconds", "finite")


@pytest.mark.parametrize("sizes", ["", "1,x", "0,4", "1,4097"])
def test_batch_sizes_that_are_none_are_refused(run, tmp_path, sizes):
    assert_refused(run("bench", tmp_path, "--batch-sizes", sizes), "expected whole numbers")


def test_a_plot_without_matplotlib_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert_refused(run("bench", tmp_path, "--plot", tmp_path / "p.svg"), "prn-guard[reports]")
    assert_refused(run("bench", tmp_path, "--plot", tmp_path / "p.gif"), ".svg, .png or .pdf")
