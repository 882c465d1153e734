"""A classifier's own ONNX model as it goes into the guarded graph, in float32 and in float16."""

import hashlib
import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.classifier_graph import ClassifierGraph, HalfClassifier, from_onnx, from_torch
from export.splice import classifier_digest
from prn_guard.errors import TargetError
from tests.export.small_classifiers import twin_model
from tests.tolerances import HALF_LOGIT, LOGIT, assert_close
from tests.training.small import everything, pictures, trained_target
from training.targets.onnx_files import OnnxClassifier, parse_onnx

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "channels last": {"layout": "nhwc"},
    "softmax": {"softmax": True},
    "two outputs": {"features": "features"},
    "opset 13": {"opset": 13},
    "opset 23": {"opset": 23},
    "fixed batch": {"batch": 1},
}


def _read(model: onnx.ModelProto) -> OnnxClassifier:
    return parse_onnx(model.SerializeToString(), name="twin.onnx")


@pytest.fixture(scope="module")
def own() -> NDArray[np.float32]:
    """Pictures on the classifier's scale."""
    return ((everything(pictures(60, seed=4)) - 0.5) / 0.25).numpy()


def _run(model: onnx.ModelProto, given: NDArray[np.float32], *names: str) -> list[Any]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    if session.get_inputs()[0].shape[1:] == [12, 12, 1]:
        given = np.ascontiguousarray(given.transpose(0, 2, 3, 1))
    return list(session.run(list(names), {session.get_inputs()[0].name: given}))


def _parts(graph: onnx.GraphProto) -> list[bytes]:
    return [part.SerializeToString() for part in (*graph.node, *graph.initializer)]


@pytest.mark.parametrize("form", FORMS)
def test_in_float32_nodes_and_weights_are_the_files_byte_for_byte(form: str) -> None:
    model = twin_model(**FORMS[form])
    classifier = from_onnx(_read(model), precision="fp32")
    assert _parts(classifier.model.graph) == _parts(model.graph)
    digest = hashlib.sha256(b"".join(_parts(model.graph))).hexdigest()
    assert classifier_digest(model.graph, "x") == digest
    assert classifier_digest(classifier.model.graph, "x") == digest
    assert classifier.file_sha256 == hashlib.sha256(model.SerializeToString()).hexdigest()
    assert classifier.opset == model.opset_import[0].version
    assert classifier.outputs == tuple(value.name for value in model.graph.output)
    assert (classifier.source, classifier.input_name) == ("onnx", "x")


def test_the_answer_is_declared_free_in_its_batch() -> None:
    model = twin_model(batch=1)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"
    (answer,) = from_onnx(_read(model), precision="fp32").model.graph.output
    dims = answer.type.tensor_type.shape.dim
    assert [dims[0].dim_param, dims[1].dim_value] == ["batch", 3]


def test_shapes_that_state_an_old_batch_are_forgotten(own: NDArray[np.float32]) -> None:
    model = onnx.shape_inference.infer_shapes(twin_model(batch=1))
    assert len(model.graph.value_info) > 3
    classifier = from_onnx(_read(model), precision="fp32")
    assert not classifier.model.graph.value_info
    assert _run(classifier.model, own, "y")[0].shape == (60, 3)


def test_weights_listed_as_inputs_are_closed() -> None:
    model = twin_model()
    weights = [
        helper.make_tensor_value_info(one.name, one.data_type, one.dims)
        for one in model.graph.initializer
    ]
    pictures_last = [*weights, *model.graph.input]
    del model.graph.input[:]
    model.graph.input.extend(pictures_last)
    classifier = from_onnx(_read(model), precision="fp32")
    assert [value.name for value in classifier.model.graph.input] == ["x"]
    assert _parts(classifier.model.graph) == _parts(model.graph)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_a_final_softmax_reads_is_found(own: NDArray[np.float32], precision: Any) -> None:
    """It has two axes more than the answer here, and stays float32 in half precision."""
    classifier = from_onnx(_read(twin_model(softmax=True)), precision=precision)
    assert classifier.logits_name == "y"
    assert classifier.before_softmax is not None
    seen = onnx.ModelProto()
    seen.CopyFrom(classifier.model)
    seen.graph.output.append(onnx.ValueInfoProto(name=classifier.before_softmax))
    logits, answer = _run(seen, own, classifier.before_softmax, "y")
    assert (logits.shape, logits.dtype) == ((60, 3, 1, 1), np.float32)
    assert_close(answer, torch.softmax(torch.from_numpy(logits[:, :, 0, 0]), dim=1), LOGIT)


def test_a_softmax_that_is_not_at_the_end_is_none(own: NDArray[np.float32]) -> None:
    model = twin_model(softmax=True, answer="inner")
    model.graph.node.append(helper.make_node("Neg", ["inner"], ["y"]))
    model.graph.output[0].name = "y"
    classifier = from_onnx(_read(model), precision="fp32")
    assert classifier.before_softmax is None
    assert _run(classifier.model, own, "y")[0].max() <= 0


@pytest.mark.parametrize("form", FORMS)
def test_float16_between_float32_ends(form: str, own: NDArray[np.float32]) -> None:
    model = twin_model(**FORMS[form])
    half = from_onnx(_read(model), precision="fp16")
    graph = half.model.graph
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    names = [value.name for value in model.graph.output]
    assert [value.name for value in graph.output] == names
    kinds = {one.data_type for one in graph.initializer if one.data_type != TensorProto.INT64}
    assert kinds == {TensorProto.FLOAT16}
    _assert_sorted(graph)
    onnx.checker.check_model(half.model, full_check=True)
    given = own[:1] if FORMS[form].get("batch") else own
    (result,), (expected,) = _run(half.model, given, "y"), _run(model, given, "y")
    assert (result.dtype, result.shape) == (np.float32, expected.shape)
    assert np.abs(result - expected).max() > 0
    assert_close(result, expected, HALF_LOGIT)


def _assert_sorted(graph: onnx.GraphProto) -> None:
    known = {one.name for one in (*graph.initializer, *graph.input)} | {""}
    for node in graph.node:
        assert set(node.input) <= known, node.name
        known |= set(node.output)


def test_the_conversion_leaves_the_file_as_it_was() -> None:
    classifier = _read(twin_model())
    before = classifier.model.SerializeToString()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = from_onnx(classifier, precision="fp16").model.SerializeToString()
        again = from_onnx(classifier, precision="fp16").model.SerializeToString()
    assert first == again
    from_onnx(classifier, precision="fp32").model.graph.node[0].name = "changed"
    assert classifier.model.SerializeToString() == before


def test_what_cannot_be_converted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("kernel")

    monkeypatch.setattr("onnxruntime.transformers.float16.convert_float_to_float16", fail)
    with pytest.raises(TargetError, match=r"to float16: KeyError: 'kernel'.*--precision fp32"):
        from_onnx(_read(twin_model()), precision="fp16")


def test_a_half_classifier_is_a_copy_between_float32_ends() -> None:
    target = trained_target()
    images = (everything(pictures(60, seed=4)) - 0.5) / 0.25
    before = {name: value.clone() for name, value in target.classifier.state_dict().items()}
    half = HalfClassifier(target.classifier).eval()
    seen: list[torch.dtype] = []
    half.classifier[0].register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    with torch.no_grad():
        result, expected = half(images), target.classifier(images)
    assert seen == [torch.float16]
    assert result.dtype == torch.float32
    assert_close(result, expected, HALF_LOGIT)
    assert not torch.equal(result, expected)
    for name, value in target.classifier.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dtype == before[name].dtype


@pytest.fixture(scope="module")
def exported() -> dict[Any, ClassifierGraph]:
    """The torch target in both precisions."""
    return {p: from_torch(trained_target(), precision=p) for p in ("fp32", "fp16")}  # type: ignore[arg-type]


def test_a_torch_module_is_exported_without_the_targets_scaling(
    exported: dict[Any, ClassifierGraph], own: NDArray[np.float32]
) -> None:
    with torch.no_grad():
        expected = trained_target().classifier(torch.from_numpy(own))
    for precision, tolerance in (("fp32", LOGIT), ("fp16", HALF_LOGIT)):
        classifier = exported[precision]
        assert (classifier.source, classifier.file_sha256) == ("torch", None)
        assert (classifier.input_name, classifier.outputs) == ("image", ("logits",))
        assert classifier.opset == 20
        (value,) = classifier.model.graph.input
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
        (result,) = _run(classifier.model, own, "logits")
        assert result.dtype == np.float32
        assert_close(result, expected, tolerance)


def test_weights_of_the_half_module_are_half(exported: dict[Any, ClassifierGraph]) -> None:
    kinds = [
        {item.data_type for item in exported[precision].model.graph.initializer if item.dims}
        & {TensorProto.FLOAT, TensorProto.FLOAT16}
        for precision in ("fp32", "fp16")
    ]
    assert kinds == [{TensorProto.FLOAT}, {TensorProto.FLOAT16}]


@pytest.mark.parametrize(("batch", "kept"), [("N", True), (1, False)])
def test_stated_shapes_stay_unless_they_hold_for_one_batch_size(
    batch: str | int, *, kept: bool
) -> None:
    """onnxruntime fuses by them: without them the answers' last bits may be others."""
    model = twin_model(**({} if batch == "N" else {"batch": batch}))
    inner = model.graph.node[0].output[0]
    stated = helper.make_tensor_value_info(inner, TensorProto.FLOAT, [batch, None, None, None])
    stated.doc_string = "noted by the exporter"
    model.graph.value_info.append(stated)
    graph = from_onnx(_read(model), precision="fp32").model.graph
    expected = [inner] if kept else []
    assert [value.name for value in graph.value_info] == expected
    assert not any(value.doc_string for value in graph.value_info)
