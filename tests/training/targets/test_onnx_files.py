"""ONNX files that are classifiers are read as they are; whatever is none is refused by name."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from prn_guard.errors import TargetError
from tests.training import tiny_onnx as tiny
from training.targets import onnx_files
from training.targets.onnx_files import parse_onnx, read_onnx

FREE = ("n", 1, None, None)


def _refused(model: ModelProto, message: str, shape: tuple[int, int, int] | None = None) -> None:
    with pytest.raises(TargetError, match=message):
        parse_onnx(tiny.content(model), name="tiny.onnx", shape=shape)


@pytest.mark.parametrize(
    "make",
    [
        tiny.model, tiny.nhwc, tiny.softmax, tiny.several_outputs,
        lambda: tiny.model(shape=(1, 1, 12, 12), outputs=(("logits", (1, 3)),)),
    ],
)  # fmt: skip
def test_nodes_initialisers_and_bytes_stay(make: Callable[[], ModelProto], tmp_path: Path) -> None:
    model = make()
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny.content(model))
    classifier = read_onnx(path)
    assert classifier.content == path.read_bytes() == tiny.content(model)
    assert tiny.parts(classifier.model) == tiny.parts(model)
    classifier.logits_graph()
    assert tiny.parts(classifier.model) == tiny.parts(model)
    batch = classifier.model.graph.input[0].type.tensor_type.shape.dim[0]
    assert not batch.HasField("dim_value")
    assert [o.name for o in classifier.model.graph.output] == [o.name for o in model.graph.output]


def test_an_open_size_is_fixed_by_the_user() -> None:
    model = tiny.model(shape=FREE)
    _refused(model, r"\[\?, 1, \?, \?\]: its size is open. Fix it by --input-shape")
    classifier = parse_onnx(tiny.content(model), name="t", shape=(1, 12, 12))
    assert classifier.shape == (1, 12, 12)
    dims = classifier.model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims][1:] == [1, 12, 12]


def test_another_size_than_the_files_is_refused() -> None:
    _refused(tiny.model(), "--input-shape asks for 1x16x16", (1, 16, 16))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08", b"\xff" * 64])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(TargetError, match=r"no ONNX model|no valid ONNX model|opset None"):
        parse_onnx(content, name="tiny.onnx")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(share: float) -> None:
    whole = tiny.content(tiny.model())
    with pytest.raises(TargetError, match=r"tiny\.onnx"):
        parse_onnx(whole[: int(share * len(whole))], name="tiny.onnx")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"none\.onnx cannot be read"):
        read_onnx(tmp_path / "none.onnx")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(TargetError, match=r"pipe\.onnx cannot be read: .*no plain file"):
        read_onnx(tmp_path / "pipe.onnx")


def test_a_file_beyond_protobufs_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as stream:
        stream.truncate(onnx_files.LARGEST_FILE + 1)
    with pytest.raises(TargetError, match="larger than 2 GiB"):
        read_onnx(path)


@pytest.mark.parametrize("opset", [11, 12, 26])
def test_opsets_outside_are_refused(opset: int) -> None:
    _refused(tiny.model(opset=opset), rf"opset {opset}; expected 13 to 25.*version_converter|valid")


def test_operators_of_other_domains_are_refused() -> None:
    nodes = tiny.network(last="l")
    nodes.append(helper.make_node("Gelu", ["l"], ["logits"], domain="com.example"))
    _refused(tiny.model(nodes, domains=["com.example"]), "not standard ONNX .com.example::Gelu")


def test_a_domain_that_nothing_uses_is_no_matter() -> None:
    classifier = parse_onnx(tiny.content(tiny.model(domains=["com.example"])), name="t")
    assert [entry.domain for entry in classifier.logits_graph().opset_import] == [""]


@pytest.mark.parametrize("where", ["initialiser", "constant"])
def test_weights_in_another_file_are_not_followed(where: str) -> None:
    tensor = numpy_helper.from_array(tiny.weights()["c"], "c")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret.bin")
    model = tiny.model()
    if where == "initialiser":
        model.graph.initializer[3].CopyFrom(tensor)
    else:
        del model.graph.initializer[3]
        node = helper.make_node("Constant", [], ["c"])
        node.attribute.append(helper.make_attribute("value", tensor))
        model.graph.node.insert(0, node)
    _refused(model, r"1 tensor\(s\), first 'c', in another file, which is not followed")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    weights = tiny.weights()
    weights["v"][3, 1] = value
    _refused(tiny.model(tensors=weights), "NaN or infinite, first in 'v'")


def test_two_inputs_are_refused() -> None:
    model = tiny.model()
    model.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]))
    _refused(model, r"2 inputs \(x, y\); expected one")


def test_initialisers_among_the_inputs_are_no_inputs() -> None:
    model = tiny.model()
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [3]))
    classifier = parse_onnx(tiny.content(model), name="t")
    assert classifier.input_name == "x"
    assert classifier.logits_graph().graph.input[1].name == "c"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (("n", 1, 12), "4 axes"),
        (("n", 2, 12, 12), "1 or 3 channels"),
        (("n", 1, 4, 12), "at least 8 pixels"),
    ],
)
def test_inputs_that_are_no_pictures_are_refused(
    shape: tuple[int | str, ...], message: str
) -> None:
    _refused(tiny.model(shape=shape), message)


def test_another_type_than_float32_is_refused() -> None:
    cast = helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)
    _refused(tiny.model([cast, *tiny.network("f")], kind=TensorProto.UINT8), "is UINT8; expected")


def test_a_graph_without_logits_is_refused() -> None:
    model = tiny.model(outputs=(("h3", ("n", tiny.WIDTH, 3, 3)),))
    _refused(model, r"answers one picture with h3 float32 \(1, 4, 3, 3\)")


def test_a_graph_that_does_not_run_is_refused() -> None:
    nodes = tiny.network()
    nodes[4].input[0] = "h3"
    _refused(tiny.model(nodes), "onnxruntime cannot run")


def test_a_batch_that_cannot_be_freed_is_refused() -> None:
    shape, outputs = (1, 1, tiny.SIDE, tiny.SIDE), (("logits", (1, tiny.CLASSES)),)
    nodes = tiny.network()
    nodes[3] = helper.make_node("Reshape", ["h3", "form"], ["h4"])
    tensors = tiny.weights() | {"form": np.array([1, tiny.WIDTH * 9])}
    model = tiny.model(nodes, shape=shape, outputs=outputs, tensors=tensors)
    _refused(model, "batch of fixed size.*Export it anew with a free batch axis")


def test_answers_that_depend_on_the_batch_are_refused() -> None:
    nodes = [
        *tiny.network(last="l"),
        helper.make_node("ReduceMean", ["l", "zero"], ["m"], keepdims=1),
        helper.make_node("Add", ["l", "m"], ["logits"]),
    ]
    tensors = tiny.weights() | {"zero": np.array([0])}
    _refused(tiny.model(nodes, tensors=tensors), "depend on what else is in the batch")


def test_an_output_that_is_the_input_is_refused() -> None:
    model = tiny.model()
    model.graph.output.append(model.graph.input[0])
    _refused(model, "gives its own input 'x' as an output.*Identity")


def test_sparse_weights_are_refused() -> None:
    weights = tiny.weights()
    values = numpy_helper.from_array(weights.pop("c"), "c")
    model = tiny.model(tensors=weights)
    places = numpy_helper.from_array(np.arange(tiny.CLASSES), "places")
    sparse = helper.make_sparse_tensor(values, places, [tiny.CLASSES])
    model.graph.sparse_initializer.append(sparse)
    _refused(model, "1 sparse initialiser.*first 'c'.*dense")


@pytest.mark.parametrize("opset", [20, 13])
def test_both_names_of_the_standard_domain_are_refused(opset: int) -> None:
    model = tiny.model()
    model.opset_import.append(helper.make_opsetid("ai.onnx", opset))
    _refused(model, rf"2 times, as '' and 'ai.onnx' \(opsets \[20, {opset}\]\)")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("form", ["value", "value_floats", "value_float"])
def test_constants_that_are_no_numbers_are_refused(form: str, value: float) -> None:
    """Even where the answer on a few pictures does not show it: the runtime would not load it."""
    numbers = [1.0, value]
    given: object = numbers[1] if form == "value_float" else numbers
    if form == "value":
        given = numpy_helper.from_array(np.array(numbers, np.float32))
    nodes = [helper.make_node("Constant", [], ["unused"], **{form: given}), *tiny.network()]
    _refused(tiny.model(nodes), "NaN or infinite, first in 'unused'")


def test_a_constant_mask_of_minus_infinity_passes() -> None:
    mask = numpy_helper.from_array(np.array([-np.inf], np.float32))
    nodes = [helper.make_node("Constant", [], ["mask"], value=mask), *tiny.network()]
    assert parse_onnx(tiny.content(tiny.model(nodes)), name="t").class_count == tiny.CLASSES
