"""ONNX files of many forms: opsets, layouts, batches, endings, names, notes."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from export.pipeline import ClientInput
from prn_guard.preparation import to_tensor
from tests.export.onnx_exports import (
    Wrap,
    answers_of,
    assert_drops_in,
    assert_serves_as_the_modules,
    digest_of,
    export_file,
    open_graph,
)
from tests.export.small_classifiers import twin_model
from tests.tolerances import LOGIT, assert_close

pytestmark = pytest.mark.usefixtures("same_front")
INPUTS: tuple[ClientInput, ...] = ("uint8-nhwc", "same")


@pytest.mark.parametrize("client_input", INPUTS)
@pytest.mark.parametrize("opset", [13, 17, 20, 23])
def test_every_opset_is_kept(
    in_front_of: Wrap,
    tmp_path: Path,
    pixels: NDArray[np.uint8],
    client_input: ClientInput,
    opset: int,
) -> None:
    exported = export_file(
        in_front_of, tmp_path / "out", twin_model(opset=opset), client_input=client_input
    )
    assert exported.manifest.opset == opset
    assert onnx.load(tmp_path / "out" / "guarded.onnx").opset_import[0].version == opset
    assert_serves_as_the_modules(exported, pixels)
    if client_input == "same":
        assert_drops_in(exported, pixels)


@pytest.mark.parametrize("client_input", INPUTS)
def test_channels_last(
    in_front_of: Wrap, tmp_path: Path, pixels: NDArray[np.uint8], client_input: ClientInput
) -> None:
    exported = export_file(
        in_front_of,
        tmp_path / "out",
        twin_model(layout="nhwc"),
        "nhwc",
        client_input=client_input,
    )
    assert exported.manifest.tensor.shape(exported.manifest.input) == (12, 12, 1)
    assert_serves_as_the_modules(exported, pixels)
    if client_input == "same":
        assert_drops_in(exported, pixels)


@pytest.mark.parametrize("client_input", INPUTS)
@pytest.mark.parametrize("batch", [1, None])
def test_a_batch_axis_that_was_fixed_or_nameless_is_free(
    in_front_of: Wrap,
    tmp_path: Path,
    pixels: NDArray[np.uint8],
    client_input: ClientInput,
    batch: int | None,
) -> None:
    exported = export_file(
        in_front_of, tmp_path / "out", twin_model(batch=batch), client_input=client_input
    )
    assert_serves_as_the_modules(exported, pixels)
    if client_input == "same":
        assert_drops_in(exported, pixels)


def test_an_answer_of_open_width_is_declared(
    in_front_of: Wrap, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    """It ends as `x.view(x.size(0), -1)` is written, of which no width can be inferred."""
    model, make = twin_model(answer="z"), onnx.helper.make_node
    for name, value in {"plane": [0, -1, 1, 1], "first": [0], "rest": [-1]}.items():
        tensor = onnx.numpy_helper.from_array(np.array(value, dtype=np.int64), name)
        model.graph.initializer.append(tensor)
    model.graph.node.extend(
        [
            make("Reshape", ["z", "plane"], ["planes"]),
            make("Shape", ["planes"], ["sizes"]),
            make("Gather", ["sizes", "first"], ["size"]),
            make("Concat", ["size", "rest"], ["form"], axis=0),
            make("Reshape", ["planes", "form"], ["y"]),
        ]
    )
    model.graph.output[0].name = "y"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"
    exported = export_file(
        in_front_of, tmp_path / "out", model, client_input="same", allow_cpu_nodes=True
    )
    assert_serves_as_the_modules(exported, pixels)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("client_input", INPUTS)
def test_logits_are_what_a_final_softmax_reads(
    in_front_of: Wrap,
    tmp_path: Path,
    pixels: NDArray[np.uint8],
    client_input: ClientInput,
    precision: str,
) -> None:
    """So that they mean the same for every classifier; the probabilities stay for old clients."""
    exported = export_file(
        in_front_of,
        tmp_path / "out",
        twin_model(softmax=True, answer="probabilities"),
        client_input=client_input,
        precision=precision,
    )
    assert_serves_as_the_modules(exported, pixels)
    assert exported.manifest.parity.unflagged_bit_equal
    answers = ("logits", "label", "score", "flagged")
    assert exported.manifest.names.all() == answers
    same = client_input == "same"
    assert exported.manifest.outputs == (("probabilities", *answers) if same else answers)
    if same and precision == "fp32":
        assert_drops_in(exported, pixels)
        own = to_tensor(pixels, exported.manifest.input, exported.manifest.tensor)
        given = answers_of((tmp_path / "out" / "guarded.onnx").read_bytes(), own)
        softmax = torch.softmax(torch.from_numpy(given["logits"]), dim=1)
        assert_close(given["probabilities"], softmax, LOGIT)


@pytest.mark.parametrize("client_input", INPUTS)
def test_of_several_outputs_all_stay_in_a_drop_in_graph(
    in_front_of: Wrap, tmp_path: Path, pixels: NDArray[np.uint8], client_input: ClientInput
) -> None:
    """The features are an output of `(N, 24)` too, and come second: the first one decides."""
    model = twin_model(features="features")
    outputs = [model.graph.output[1], model.graph.output[0]]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    exported = export_file(in_front_of, tmp_path / "out", model, client_input=client_input)
    assert_serves_as_the_modules(exported, pixels)
    if client_input == "same":
        assert exported.manifest.outputs == ("y", "features", "label", "score", "flagged")
        assert_drops_in(exported, pixels)
    else:
        assert exported.manifest.outputs == ("logits", "label", "score", "flagged")


@pytest.mark.parametrize("client_input", INPUTS)
@pytest.mark.parametrize(
    "names",
    [
        {"image": "image", "answer": "logits"},
        {"image": "logits", "answer": "label"},
        {"image": "score", "answer": "image", "features": "flagged"},
        {"image": "flagged", "answer": "score", "features": "logits"},
        {"image": "label", "answer": "out", "features": "image"},
    ],
)
def test_names_that_the_guard_would_take_are_left_to_the_classifier(
    in_front_of: Wrap,
    tmp_path: Path,
    pixels: NDArray[np.uint8],
    client_input: ClientInput,
    names: dict[str, str],
) -> None:
    model = twin_model(**names)  # type: ignore[arg-type]  # names alone
    outputs = list(reversed(model.graph.output))
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    exported = export_file(in_front_of, tmp_path / "out", model, client_input=client_input)
    assert_serves_as_the_modules(exported, pixels)
    if client_input == "same":
        assert_drops_in(exported, pixels)


def test_weights_listed_as_inputs_are_no_inputs_of_the_graph(
    in_front_of: Wrap, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    model = twin_model()
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
    )
    exported = export_file(
        in_front_of, tmp_path / "out", model, client_input="same", with_bare=True
    )
    for name in ("guarded.onnx", "bare.onnx"):
        session = open_graph((tmp_path / "out" / name).read_bytes())
        assert [value.name for value in session.get_inputs()] == ["x"]
    assert_serves_as_the_modules(exported, pixels)
    assert exported.manifest.classifier.digest == digest_of(model.SerializeToString())


def test_the_standard_domain_may_be_spelt_out(
    in_front_of: Wrap, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    model = twin_model()
    model.opset_import[0].domain = "ai.onnx"
    exported = export_file(in_front_of, tmp_path / "out", model, client_input="same")
    assert_serves_as_the_modules(exported, pixels)
    assert_drops_in(exported, pixels)


PATH = "/home/somebody/secret/net.py"


def test_nothing_of_the_users_machine_is_shipped(in_front_of: Wrap, tmp_path: Path) -> None:
    model = twin_model()
    graph = model.graph
    constant = onnx.helper.make_node(
        "Constant", [], ["unused"], value=onnx.numpy_helper.from_array(np.zeros(1, np.float32))
    )
    before = onnx.ModelProto()
    before.CopyFrom(model)
    before.graph.node.insert(0, constant)
    clean = digest_of(before.SerializeToString())
    constant.attribute[0].t.doc_string = PATH
    graph.node.insert(0, constant)
    model.doc_string = graph.doc_string = graph.node[1].doc_string = PATH
    graph.node[1].attribute[0].doc_string = graph.initializer[0].doc_string = PATH
    graph.input[0].doc_string = graph.output[0].doc_string = PATH
    for part in (model, graph, graph.node[2], graph.initializer[1], graph.input[0]):
        part.metadata_props.add(key="source", value=PATH)
    exported = export_file(in_front_of, tmp_path / "out", model, with_bare=True)
    for name in ("guarded.onnx", "bare.onnx", "manifest.json"):
        assert b"somebody" not in (tmp_path / "out" / name).read_bytes()
    manifest = exported.manifest
    assert manifest.classifier.digest == clean
    content = model.SerializeToString()
    assert manifest.classifier.file_sha256 == hashlib.sha256(content).hexdigest()
