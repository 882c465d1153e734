"""The classifier's own nodes and weights stand in the guarded graph, byte for byte."""

import functools
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.guard_front import GuardFront, front_model
from export.splice import GuardedGraph, classifier_digest, set_threshold, splice
from prn_guard.contract import UINT8_NHWC, InputSpec, InputTensor
from prn_guard.errors import TargetError
from prn_guard.nn.detector import DetectorSpec, build_detector
from prn_guard.nn.rectifier import RectifierSpec, build_rectifier
from prn_guard.preparation import to_tensor
from tests.export.running import answers_of
from tests.export.small_classifiers import CLASSES, SIDE, classifier_graph, classifier_model

OPSETS = (13, 17, 18, 20, 21, 23)
NEVER, ALWAYS = 1e9, -1e9


def _spec(layout: str = "nchw") -> InputSpec:
    return InputSpec.model_validate(
        {
            "channels": 3, "height": SIDE, "width": SIDE, "mean": (0.0,) * 3, "std": (1.0,) * 3,
            "pixel_range": 255, "layout": layout,
        }
    )  # fmt: skip


def _own(model: onnx.ModelProto, layout: str = "nchw") -> InputTensor:
    return InputTensor.model_validate(
        {"name": model.graph.input[0].name, "dtype": "float32", "layout": layout}
    )


@functools.cache
def _front(dtype: str = "uint8", layout: str = "nchw") -> onnx.ModelProto:
    rectifier = build_rectifier(
        RectifierSpec(channels=3, factor=2, width=4, blocks=1, levels=3),
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for value in rectifier.parameters():
            value.normal_(std=0.1, generator=generator)
    detector = build_detector(DetectorSpec(), SIDE, SIDE)
    detector.weight.fill_(0.01)
    tensor = UINT8_NHWC
    if dtype != "uint8":
        tensor = InputTensor.model_validate({"name": "x", "dtype": dtype, "layout": layout})
    return front_model(GuardFront(rectifier, detector, _spec(layout), tensor))


def _spliced(
    model: onnx.ModelProto,
    *,
    same: bool = False,
    threshold: float = NEVER,
    layout: str = "nchw",
) -> GuardedGraph:
    tensor = _own(model, layout) if same else UINT8_NHWC
    front = _front(tensor.dtype, layout)
    graph = splice(front, classifier_graph(model), tensor, keep_outputs=same)
    set_threshold(graph.model, threshold)
    return graph


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (5, SIDE, SIDE, 3)).astype(np.uint8)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("opset", OPSETS)
def test_a_guard_that_passes_all_through_changes_no_bit(
    pixels: NDArray[np.uint8], opset: int, *, same: bool
) -> None:
    model = classifier_model(opset=opset, features="features")
    graph = _spliced(model, same=same)
    given = answers_of(graph.model, to_tensor(pixels, _spec(), graph.tensor))
    expected = answers_of(model, to_tensor(pixels, _spec(), _own(model)))
    assert not given["flagged"].any()
    for name in ("logits", "features") if same else ("logits",):
        assert np.array_equal(given[name].view(np.int32), expected[name].view(np.int32))
    assert np.array_equal(given["label"], expected["logits"].argmax(axis=1))


@pytest.mark.parametrize("opset", OPSETS)
def test_the_same_front_answers_alike_under_every_opset(
    pixels: NDArray[np.uint8], opset: int
) -> None:
    given = answers_of(_spliced(classifier_model(opset=opset), threshold=ALWAYS).model, pixels)
    oldest = answers_of(_spliced(classifier_model(opset=18), threshold=ALWAYS).model, pixels)
    assert given["flagged"].all()
    assert np.array_equal(given["score"], oldest["score"])
    assert np.array_equal(given["logits"], oldest["logits"])


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("image", ["image", "pixels", "score"])
def test_nodes_and_weights_are_those_of_the_file(image: str, *, same: bool) -> None:
    """Without the module's own digest: every node and weight is looked up in the result."""
    model = classifier_model(image=image)
    graph = _spliced(model, same=same).model.graph
    assert {item.SerializeToString() for item in model.graph.initializer} <= {
        item.SerializeToString() for item in graph.initializer
    }
    found = [node.SerializeToString() for node in graph.node]
    for node in model.graph.node:
        if image not in node.input:
            assert node.SerializeToString() in found
            continue
        redirected = onnx.NodeProto.FromString(node.SerializeToString())
        redirected.input[list(node.input).index(image)] = "guard.chosen"
        assert redirected.SerializeToString() in found
    assert sum(not name.name.startswith("guard.") for name in graph.node) == len(model.graph.node)


def test_the_digest_is_the_files_and_notices_every_change() -> None:
    model = classifier_model()
    alone = classifier_digest(model.graph, "image")
    graph = _spliced(model)
    assert graph.digest == alone == classifier_digest(graph.model.graph, "image")
    for change in (_other_weight, _other_attribute, _other_wire, _one_more_node):
        altered = onnx.ModelProto.FromString(graph.model.SerializeToString())
        change(altered.graph)
        assert classifier_digest(altered.graph, "image") != alone, change.__name__
    set_threshold(graph.model, 0.25)  # the guard's own values are no part of it
    assert classifier_digest(graph.model.graph, "image") == alone


def _other_weight(graph: onnx.GraphProto) -> None:
    weight = next(item for item in graph.initializer if item.name == "shift")
    value = numpy_helper.to_array(weight).copy()
    value[0] = np.nextafter(value[0], np.float32(9))
    weight.CopyFrom(numpy_helper.from_array(value, "shift"))


def _other_attribute(graph: onnx.GraphProto) -> None:
    next(node for node in graph.node if node.name == "c").attribute[0].ints[0] = 2


def _other_wire(graph: onnx.GraphProto) -> None:
    next(node for node in graph.node if node.name == "r").input[0] = "guard.chosen"


def _one_more_node(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Identity", ["logits"], ["again"]))


def test_a_drop_in_has_the_old_files_input_and_its_outputs_first() -> None:
    model = classifier_model(image="data", logits="probs", features="embedding")
    graph = _spliced(model, same=True)
    (given,), (old,) = graph.model.graph.input, model.graph.input
    assert (given.name, graph.tensor.name) == ("data", "data")
    assert given.type.tensor_type.elem_type == old.type.tensor_type.elem_type
    assert [dim.dim_value for dim in given.type.tensor_type.shape.dim][1:] == [3, SIDE, SIDE]
    assert graph.outputs == ("probs", "embedding", "label", "score", "flagged")
    assert graph.names.all() == ("probs", "label", "score", "flagged")


def test_a_graph_for_bytes_calls_the_logits_logits(pixels: NDArray[np.uint8]) -> None:
    model = classifier_model(image="data", logits="dense_2", features="embedding")
    graph = _spliced(model)
    assert graph.outputs == graph.names.all() == ("logits", "label", "score", "flagged")
    expected = answers_of(model, to_tensor(pixels, _spec(), _own(model)))["dense_2"]
    assert np.array_equal(answers_of(graph.model, pixels)["logits"], expected)


@pytest.mark.parametrize("same", [True, False])
def test_names_that_the_classifier_uses_itself_are_left_to_it(
    pixels: NDArray[np.uint8], *, same: bool
) -> None:
    model = classifier_model(image="x", logits="label", features="score", inner="image")
    graph = _spliced(model, same=same)
    assert graph.tensor.name == ("x" if same else "guard_image")
    logits = "label" if same else "logits"
    assert graph.names.all() == (logits, "guard_label", "guard_score", "flagged")
    given = answers_of(graph.model, to_tensor(pixels, _spec(), graph.tensor))
    expected = answers_of(model, to_tensor(pixels, _spec(), _own(model)))["label"]
    assert np.array_equal(given[logits], expected)
    assert given["guard_label"].shape == (5,)


@pytest.mark.parametrize("same", [True, False])
def test_channels_last(pixels: NDArray[np.uint8], *, same: bool) -> None:
    model = classifier_model(layout="nhwc")
    graph = _spliced(model, same=same, layout="nhwc")
    spec = _spec("nhwc")
    given = answers_of(graph.model, to_tensor(pixels, spec, graph.tensor))["logits"]
    assert np.array_equal(given, answers_of(model, pixels.astype(np.float32))["logits"])
    assert given.shape == (5, CLASSES)


def test_a_reference_inside_a_branch_is_redirected_too(pixels: NDArray[np.uint8]) -> None:
    model = _with_branch()
    graph = _spliced(model)
    expected = answers_of(model, to_tensor(pixels, _spec(), _own(model)))["logits"]
    assert np.array_equal(answers_of(graph.model, pixels)["logits"], expected)
    assert graph.digest == classifier_digest(model.graph, "image")


def _with_branch() -> onnx.ModelProto:
    """The classifier, whose logits are shifted by the picture's mean in a branch always taken."""
    model = classifier_model(logits="plain")
    value = functools.partial(helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    then = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("ReduceMean", ["flat"], ["shift_by"], axes=[1]),
            helper.make_node("Add", ["plain", "shift_by"], ["shifted"]),
        ],
        "then", [], [value("shifted", shape=None)],
    )  # fmt: skip
    otherwise = helper.make_graph(
        [helper.make_node("Identity", ["plain"], ["kept"])], "else", [], [value("kept", shape=None)]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["logits"], then_branch=then, else_branch=otherwise)
    )
    del model.graph.output[:]
    model.graph.output.append(value("logits", shape=["N", CLASSES]))
    return model


def test_guarding_twice_is_refused() -> None:
    guarded = _spliced(classifier_model(), same=True)
    with pytest.raises(TargetError, match=r"guarded already.*original file"):
        splice(_front("float32"), classifier_graph(guarded.model), _own(guarded.model),
               keep_outputs=True)  # fmt: skip


def test_an_opset_older_than_the_guards_operators_is_refused() -> None:
    with pytest.raises(TargetError, match="opset 12; the guard needs 13"):
        _spliced(classifier_model(opset=12))


def test_the_opset_is_the_files_and_the_ir_version_the_higher_of_the_two() -> None:
    front = _front().ir_version
    assert _spliced(classifier_model(opset=17)).model.opset_import == [helper.make_opsetid("", 17)]
    assert _spliced(classifier_model(ir_version=7, opset=13)).model.ir_version == front
    assert _spliced(classifier_model(ir_version=front + 1)).model.ir_version == front + 1


def test_the_threshold_is_what_flags_and_nothing_else(pixels: NDArray[np.uint8]) -> None:
    """The front was exported with threshold and bias both 0, which the exporter keeps once."""
    graph = _spliced(classifier_model())
    scores = answers_of(graph.model, pixels)["score"]
    middle = float(np.sort(scores)[2])
    set_threshold(graph.model, middle)
    given = answers_of(graph.model, pixels)
    assert np.array_equal(given["score"], scores)
    assert np.array_equal(given["flagged"], scores > np.float32(middle))
    assert given["flagged"].sum() == 2


def _handing_on_its_input(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.input[0])


def _contradicting_itself(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CLASSES + 1


@pytest.mark.parametrize("spoil", [_handing_on_its_input, _contradicting_itself])
def test_what_onnx_cannot_join_or_check_is_a_target_error(
    spoil: Callable[[onnx.ModelProto], None],
) -> None:
    model = classifier_model()
    spoil(model)
    with pytest.raises(TargetError, match=r"(joined|valid).*Nothing was exported.*exporter"):
        _spliced(model)
