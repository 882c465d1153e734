"""Graphs made to harm.

Graphs and manifests here are sealed anew, so that every digest is right: digests are no defence.
"""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from prn_guard.artifact import check_model, read_artifact
from prn_guard.contract import Manifest
from prn_guard.errors import ArtifactError
from prn_guard.execution import runtime_errors
from prn_guard.session import open_session
from tests.prn_guard.refusals import assert_refused


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


def _unused(data_type, **values):
    """A change that adds a weight of two values to no use."""
    tensor = TensorProto(name="unused", dims=[2], data_type=data_type, **values)
    return lambda model: model.graph.initializer.append(tensor)


def _attribute(**attribute):
    def change(model):
        model.graph.node.append(helper.make_node("Constant", [], ["unused"], **attribute))

    return change


def _tensor_in_two_parts(content):
    """Protobuf would merge them: floats of the one, the type of the other."""
    typed = TensorProto(dims=[1], data_type=TensorProto.FLOAT).SerializeToString()
    tensor = TensorProto(dims=[1], data_type=TensorProto.INT64, float_data=[np.nan])
    parts = [tensor.SerializeToString(), typed]
    for tag in (b"\x2a", b"\x2a", b"\x0a", b"\x3a"):
        joined = b"".join(tag + bytes([len(part)]) + part for part in parts)
        parts = [joined]
    return content + joined


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
        (_unused(TensorProto.FLOAT16, int32_data=[0x3C00, 0xFE00]), "1 weights that are no number"),
        (_unused(TensorProto.BFLOAT16, int32_data=[0x7FC0, -1]), "2 weights that are no number"),
        (_unused(TensorProto.BFLOAT16, raw_data=b"\x80\x3f\x81\x7f"), "1 weights that are"),
        (_unused(TensorProto.COMPLEX64, float_data=[0, 1, 2, np.nan]), "1 weights that are"),
        (_attribute(value_float=np.nan), "1 attributes that are no number"),
        (_attribute(value_floats=[1.0, np.nan, np.nan]), "2 attributes that are no number"),
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


@pytest.mark.parametrize(
    ("data_type", "field", "value"),
    [(1, b"\x25", b"\0\0\xc0\x7f"), (11, b"\x51", b"\0" * 6 + b"\xf8\x7f"), (10, b"\x28", b"\0")],
)
def test_values_one_by_one_are_refused(write_guard, data_type, field, value):
    """No writer of ONNX has them so, and NaN could hide among them."""
    tensor = TensorProto(dims=[1], data_type=data_type).SerializeToString() + field + value
    part = b"\x2a" + bytes([len(tensor)]) + tensor
    folder = write_guard(graph=lambda content: content + b"\x3a" + bytes([len(part)]) + part)
    assert_refused(folder, "guarded.onnx", "of the tensor at byte")


def test_tensor_in_two_parts_is_refused(write_guard):
    folder = write_guard(graph=_tensor_in_two_parts)
    assert_refused(folder, "guarded.onnx", "field 5 of the attribute")


def test_the_type_of_a_weight_is_read_as_protobuf_cuts_it(write_guard):
    def change(content):
        tensor = b"\x08\x01\x10\x81\x80\x80\x80\x10\x4a\x04\0\0\xc0\x7f"
        part = b"\x2a" + bytes([len(tensor)]) + tensor
        return content + b"\x3a" + bytes([len(part)]) + part

    assert_refused(write_guard(graph=change), "guarded.onnx", "1 weights that are no number")


def test_infinities_and_the_largest_halves_are_kept(write_guard):
    def change(model):
        for data_type, values in (
            (TensorProto.FLOAT16, [0x7C00, 0xFC00, 0x7BFF, 0]),
            (TensorProto.BFLOAT16, [0x7F80, 0xFF80, 0x7F7F, 0]),
        ):
            tensor = TensorProto(name=f"t{data_type}", dims=[4], data_type=data_type)
            tensor.int32_data.extend(values)
            model.graph.initializer.append(tensor)

    read_artifact(write_guard(model=change))


def test_halves_are_counted_across_pieces(write_guard, monkeypatch):
    halves = np.random.default_rng(0).integers(0, 1 << 16, 5000, dtype=np.uint16)
    count = int(np.isnan(halves.view(np.float16)).sum())
    assert count > 100
    folder = write_guard(model=_unused(TensorProto.FLOAT16, int32_data=halves))
    manifest = Manifest.parse((folder / "manifest.json").read_bytes(), folder)
    monkeypatch.setattr("prn_guard.artifact._PIECE", 7)
    with pytest.raises(ArtifactError, match=f"holds {count} weights"):
        check_model((folder / "guarded.onnx").read_bytes(), manifest, folder)


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
