"""Artifacts made to harm: each is refused with a message that names the file and what to do.

Graphs and manifests here are sealed anew, so that every digest is right: digests are no defence.
"""

import json
import os
import time

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from prn_guard.contract import seal
from prn_guard.errors import ArtifactError
from prn_guard.execution import runtime_errors
from prn_guard.session import open_session


def assert_refused(folder, name, said, **options):
    begin = time.monotonic()
    with pytest.raises(ArtifactError) as caught:
        open_session(folder, **options)
    message = str(caught.value)
    assert name in message
    assert said in message
    assert any(hint in message for hint in ("anew", "Restore", "Put the file", "Is it", "Is this"))
    assert time.monotonic() - begin < 5


def sparse(path, size):
    with path.open("wb") as stream:
        stream.truncate(size)


# Files


def test_oversized_manifest_is_not_read(folder):
    sparse(folder / "manifest.json", 1 << 40)
    assert_refused(folder, "manifest.json", "larger than 16777216 bytes")


def test_graph_beyond_protobuf_is_not_read(write_guard):
    size = 1 << 40
    folder = write_guard(manifest=lambda m: m["files"][0].update(size_bytes=size))
    sparse(folder / "guarded.onnx", size)
    assert_refused(folder, "guarded.onnx", "at most 2147483647")


def test_oversized_signature_is_not_read(folder, tmp_path):
    sparse(folder / "manifest.sig", 1 << 40)
    assert_refused(folder, "manifest.sig", "larger than", public_key=tmp_path / "key.pem")


@pytest.mark.parametrize("name", ["manifest.json", "guarded.onnx", "manifest.sig"])
def test_pipes_and_folders_are_refused_and_not_waited_for(folder, name, tmp_path):
    options = {"public_key": tmp_path / "key.pem"} if name == "manifest.sig" else {}
    path = folder / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert_refused(folder, name, "no plain file", **options)
    path.unlink()
    path.mkdir()
    assert_refused(folder, name, "no plain file", **options)


@pytest.mark.parametrize("name", ["manifest.json", "guarded.onnx", "manifest.sig"])
def test_links_out_of_the_folder_are_refused(folder, name, tmp_path):
    options = {"public_key": tmp_path / "key.pem"} if name == "manifest.sig" else {}
    (folder / "manifest.sig").write_bytes(bytes(64))
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to("../elsewhere")
    assert_refused(folder, name, "inside its folder", **options)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    assert_refused(folder, name, "inside its folder", **options)
    (folder / name).unlink()
    (folder / name).symlink_to(name)
    assert_refused(folder, name, "cannot be read", **options)


def test_further_files_are_compared_too(write_guard):
    entry = {"name": "bare.onnx", "sha256": "0" * 64, "size_bytes": 4}
    folder = write_guard(manifest=lambda m: m["files"].append(entry))
    (folder / "bare.onnx").write_bytes(b"abcd")
    assert_refused(folder, "bare.onnx", "has changed")
    (folder / "bare.onnx").unlink()
    os.mkfifo(folder / "bare.onnx")
    assert_refused(folder, "bare.onnx", "no plain file")


# Manifests


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "cannot be read as JSON"),
        (b"\x00", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b'{"a": 1', "cannot be read as JSON"),
        (b'{"a": NaN}', "no finite number"),
        (b'{"a": -Infinity}', "no finite number"),
        (b'{"a": 1e999}', "no finite number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands twice"),
        (b"[" * 40 + b"]" * 40, "nests deeper than 32"),
        (b"[" * 2_000_000 + b"]" * 2_000_000, "cannot be read as JSON"),
        (b'{"a":' * 1_000_000, "cannot be read as JSON"),
        (b'"' + b'\\"' * 4_000_000, "cannot be read as JSON"),
        (b"[]", "does not follow"),
        (b"null", "does not follow"),
        (b'"\\ud800"', "does not follow"),
        (b"{}", "does not follow"),
    ],
)
def test_what_is_no_manifest_is_refused(folder, text, said):
    (folder / "manifest.json").write_bytes(text)
    assert_refused(folder, "manifest.json", said)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(manifest_version=3),
        lambda m: m.update(manifest_version="2"),
        lambda m: m.update(manifest_version=True),
        lambda m: m.update(opset="20"),
        lambda m: m.update(opset=10**400),
        lambda m: m.update(opset=12),
        lambda m: m.update(created_by=["a"]),
        lambda m: m.update(outputs="logits"),
        lambda m: m.update(outputs={"logits": 1}),
        lambda m: m.update(class_names=None),
        lambda m: m["names"].update(label="score"),
        lambda m: m["names"].update(label="halved"),
        lambda m: m.update(outputs=["flagged", "score", "label", "logits", "logits"]),
        lambda m: m["tensor"].update(dtype="float16"),
        lambda m: m["tensor"].update(name=""),
        lambda m: m["detection"].update(threshold="0.5"),
        lambda m: m["detection"].update(threshold=1e39),
        lambda m: m["files"][0].update(size_bytes=float(m["files"][0]["size_bytes"])),
        lambda m: m["files"][0].update(name="guarded.onnx/"),
        lambda m: m["files"][0].update(name="guarded\u0000.onnx"),
        lambda m: m.update({"\u001b[31m": 1}),
    ],
)
def test_manifest_of_wrong_types_is_refused_though_sealed(write_guard, change):
    folder = write_guard(manifest=change)
    assert_refused(folder, "manifest.json", "does not follow manifest version 2")


def test_messages_do_not_steer_the_terminal(write_guard):
    with pytest.raises(ArtifactError) as caught:
        open_session(write_guard(manifest=lambda m: m.update({"\u001b[31mred": 1})))
    assert "\u001b" not in str(caught.value)


def test_key_twice_is_refused_though_the_seal_is_right(folder):
    path = folder / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"opset": 20', '"opset": 13, "opset": 20'))
    assert json.loads(path.read_text())["manifest_sha256"] == seal(
        {k: v for k, v in json.loads(text).items() if k != "manifest_sha256"}
    )
    assert_refused(folder, "manifest.json", "'opset' stands twice")


# Graphs


def _initializer(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def _opset(version, domain=""):
    def change(model):
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid(domain, version))

    return change


def _further_opset(domain):
    return lambda model: model.opset_import.append(helper.make_opsetid(domain, 1))


def _custom_operator(model):
    node = helper.make_node("EPContext", [], ["x"], domain="com.microsoft", ep_cache_context="/x")
    model.graph.node.insert(0, node)


def _function(model):
    model.functions.append(
        helper.make_function("", "Gemm", ["a"], ["b"], [], [helper.make_opsetid("", 20)])
    )


def _endless(model):
    """The score, handed through 2^62 times."""
    body = helper.make_graph(
        [helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in ("go", "s")],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s_in", TensorProto.FLOAT, ["N"]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s_out", TensorProto.FLOAT, ["N"]),
        ],
    )
    for name, value in (("rounds", np.array(2**62)), ("go", np.array(True))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    model.graph.node[2].output[0] = "bare"
    model.graph.node.insert(
        3, helper.make_node("Loop", ["rounds", "go", "bare"], ["score"], body=body)
    )


def _one_nan(model):
    # Behind a rectified linear unit, which some kernels answer with 0, so that it would not show.
    tensor = _initializer(model, "weights")
    array = numpy_helper.to_array(tensor).copy()
    array[5, 2] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(array, "weights"))


def _half_nan(model):
    array = np.array([1, np.nan], np.float16)
    model.graph.initializer.append(numpy_helper.from_array(array, "unused"))


def _nan_in_subgraph(model):
    value = numpy_helper.from_array(np.array([np.nan]), "inner")
    body = helper.make_graph([], "body", [], [], [value])
    node = helper.make_node("If", ["c"], ["x"], then_branch=body, else_branch=body)
    model.graph.node.append(node)


def external(location):
    def change(model):
        tensor = _initializer(model, "weights")
        tensor.ClearField("raw_data")
        tensor.external_data.add(key="location", value=location)
        tensor.data_location = TensorProto.EXTERNAL

    return change


def _external_constant(model):
    tensor = TensorProto(name="x", dims=[1], data_type=TensorProto.FLOAT)
    tensor.external_data.add(key="location", value="weights.bin")
    tensor.data_location = TensorProto.EXTERNAL
    body = helper.make_graph([helper.make_node("Constant", [], ["x"], value=tensor)], "b", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["x"], then_branch=body))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_opset(19), "operator set 19; expected 20"),
        (_opset(20, "ai.onnx.ml"), "ai.onnx.ml"),
        (_opset(2**63 - 1), "expected 20"),
        (lambda model: model.ClearField("opset_import"), "operator set none"),
        (_further_opset("com.microsoft"), "com.microsoft"),
        (_further_opset("ai.onnx"), "stated twice"),
        (_custom_operator, "com.microsoft"),
        (_endless, "uses Loop, which may run for ever"),
        (_function, "functions of its own"),
        (lambda model: model.ClearField("ir_version"), "IR version None"),
        (lambda model: setattr(model, "ir_version", 2), "IR version 2"),
        (lambda model: setattr(model, "ir_version", 99), "IR version 99"),
        (lambda model: setattr(model, "ir_version", -1), "IR version"),
        (lambda model: model.ClearField("graph"), "guarded.onnx"),
        (_one_nan, "1 weights that are no number"),
        (_half_nan, "1 weights that are no number"),
        (_nan_in_subgraph, "weights that are no number"),
        (external("weights.bin"), "values in other files in 1 places"),
        (external("/etc/passwd"), "values in other files"),
        (external("../../weights.bin"), "values in other files"),
        (external(""), "values in other files"),
        (_external_constant, "values in other files"),
    ],
)
def test_graph_that_is_not_allowed_is_refused_though_sealed(write_guard, change, said):
    assert_refused(write_guard(model=change), "guarded.onnx", said)


def test_another_format_behind_the_same_bytes_is_refused(write_guard):
    """Valid protobuf whose bytes 4 to 7 would make onnxruntime read a flat buffer instead."""

    def polyglot(content):
        name = b"ORTM" + bytes((1 << 14) - 4)
        return b"\x12\x80\x80\x01" + name + content

    folder = write_guard(graph=polyglot)
    manifest, session = open_session(folder)  # read as what was checked: the ONNX model
    assert session.get_inputs()[0].name == manifest.tensor.name
    content = (folder / "guarded.onnx").read_bytes()
    with pytest.raises(runtime_errors(), match="ORT"):
        onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def test_graph_that_fails_on_every_picture_is_refused(write_guard):
    def change(model):
        shape = numpy_helper.from_array(np.array([-1, 7]), "odd")
        model.graph.initializer.append(shape)
        model.graph.node[7].CopyFrom(helper.make_node("Reshape", ["chosen", "odd"], ["flat"]))

    assert_refused(write_guard(model=change), "guarded.onnx", "")


def test_labels_that_do_not_follow_from_the_logits_are_refused(write_guard):
    def change(model):
        model.graph.node[9].op_type = "ArgMin"

    assert_refused(write_guard(model=change), "guarded.onnx", "not those of its highest logits")
