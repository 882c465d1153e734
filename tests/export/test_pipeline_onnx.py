"""A guard in front of a classifier that exists only as an ONNX file: what clients get from it."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from export.deliveries import as_integers
from export.parity import MARGINS
from export.pipeline import ClientInput, ExportOptions, export_guard
from prn_guard import Guard
from prn_guard.contract import Manifest
from prn_guard.preparation import to_tensor
from tests.export.small_classifiers import twin_model
from tests.tolerances import LOGIT, SCORE, assert_close
from tests.training.small import everything
from training.datasets import Pictures
from training.evaluation.outcomes import as_delivered
from training.guard.folder import load_bank, load_guard

pytestmark = pytest.mark.usefixtures("same_front")
Wrap = Callable[..., Path]
INPUTS: tuple[ClientInput, ...] = ("uint8-nhwc", "same")


@dataclass(frozen=True)
class Exported:
    """A guard folder, the user's file in it, and what was exported from it."""

    source: Path
    model: onnx.ModelProto
    out: Path
    manifest: Manifest


def _export(
    wrap: Wrap, out: Path, model: onnx.ModelProto, layout: str = "nchw", **options: Any
) -> Exported:
    source = wrap(model, layout)
    manifest = export_guard(source, out, ExportOptions(limit=40, **options))
    return Exported(source, model, out, manifest)


@pytest.fixture(scope="session")
def pixels(test_set: Pictures, guard_folder: Path) -> NDArray[np.uint8]:
    """Every test picture clean and perturbed, `(180, 12, 12, 1)`."""
    images = everything(test_set)
    perturbed = as_delivered(images, load_bank(guard_folder).unseen[0])
    return np.concatenate([as_integers(images), as_integers(perturbed)])


def _session(content: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def _answers(content: bytes, pictures: NDArray[Any]) -> dict[str, NDArray[Any]]:
    session = _session(content)
    (image,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {image.name: pictures}), strict=True))


def _bits(values: NDArray[Any]) -> NDArray[np.int32]:
    return np.ascontiguousarray(values).view(np.int32)


def _assert_serves_as_the_modules(exported: Exported, pixels: NDArray[np.uint8]) -> None:
    """Scores and logits within tolerance; decisions exactly, but inside the margin."""
    manifest = exported.manifest
    half = manifest.precision == "fp16"
    guarded, _ = load_guard(exported.source)
    guarded.detector.threshold.fill_(manifest.detection.threshold)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = guarded(images)
    verdict = Guard(exported.out).classify(pixels, batch_size=60)
    margins = MARGINS[manifest.precision]
    score, logits = expected.score.numpy(), expected.logits.numpy()
    clear = np.abs(score - manifest.detection.threshold) > margins.score
    assert clear.sum() > 100
    assert np.array_equal(verdict.flagged[clear], expected.flagged.numpy()[clear])
    assert 10 < verdict.flagged[clear].sum() < clear.sum() - 10
    agreed = verdict.flagged == expected.flagged.numpy()
    top = np.sort(logits, axis=1)
    decided = agreed & (top[:, -1] - top[:, -2] > margins.logit)
    assert np.array_equal(verdict.label[decided], expected.label.numpy()[decided])
    if half:
        assert np.abs(verdict.score - score).max() < margins.score
        assert np.abs(verdict.logits - logits)[agreed].max() < margins.logit
    else:
        assert_close(verdict.score, score, SCORE)
        assert_close(verdict.logits[agreed], logits[agreed], LOGIT)
    softmax = torch.softmax(torch.from_numpy(verdict.logits).double(), dim=1)
    assert_close(verdict.probabilities, softmax, LOGIT)


def _assert_drops_in(exported: Exported, pixels: NDArray[np.uint8]) -> None:
    """Old clients' input is taken, and unflagged pictures get the user's file's very bits."""
    guarded_file = (exported.out / "guarded.onnx").read_bytes()
    original = exported.model.SerializeToString()
    (old,), (new,) = _session(original).get_inputs(), _session(guarded_file).get_inputs()
    assert (new.name, new.type, new.shape[1:]) == (old.name, old.type, old.shape[1:])
    spec = load_guard(exported.source)[1].input
    assert exported.manifest.tensor.name == old.name
    own = to_tensor(pixels, spec, exported.manifest.tensor)
    plain = pixels.astype(np.float32) / np.float32(255)
    by_hand = (plain - np.float32(0.5)) / np.float32(0.25)
    if spec.layout == "nchw":
        by_hand = by_hand.transpose(0, 3, 1, 2)
    assert np.array_equal(own, by_hand)
    expected = _answers(original, own) if isinstance(old.shape[0], str | None) else None
    given = _answers(guarded_file, own)
    names = [output.name for output in exported.model.graph.output]
    assert list(given)[: len(names)] == names
    roles = exported.manifest.names
    assert list(given)[-3:] == [roles.label, roles.score, roles.flagged]
    assert tuple(given) == exported.manifest.outputs
    unflagged = ~given[roles.flagged]
    assert 10 < unflagged.sum() < len(pixels) - 10
    if expected is None:  # made for one picture at a time
        rows = [_answers(original, own[at : at + 1]) for at in range(len(own))]
        expected = {name: np.concatenate([row[name] for row in rows]) for name in names}
        assert np.allclose(given[names[0]][unflagged], expected[names[0]][unflagged], rtol=1e-5)
        return
    for name in names:
        equal = (_bits(given[name]) == _bits(expected[name])).all(axis=1)
        assert equal[unflagged].all()
        assert not equal[~unflagged].all()


@pytest.fixture(scope="session")
def four(
    in_front_of: Wrap, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[ClientInput, str], Exported]:
    """The plain file, exported in either input and precision, once each."""

    @functools.cache
    def export(client_input: ClientInput, precision: str) -> Exported:
        out = tmp_path_factory.mktemp("four") / "guarded"
        return _export(
            in_front_of, out, twin_model(), client_input=client_input, precision=precision
        )

    return export


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("client_input", INPUTS)
def test_every_form_answers_as_the_torch_modules(
    four: Any, pixels: NDArray[np.uint8], client_input: ClientInput, precision: str
) -> None:
    exported = four(client_input, precision)
    _assert_serves_as_the_modules(exported, pixels)
    parity = exported.manifest.parity
    assert (parity.label_mismatches, parity.flag_mismatches) == (0, 0)
    assert parity.unflagged_bit_equal


def test_a_drop_in_graph_is_the_users_file_until_it_flags(
    four: Any, pixels: NDArray[np.uint8]
) -> None:
    exported = four("same", "fp32")
    _assert_drops_in(exported, pixels)
    assert exported.manifest.outputs == ("y", "label", "score", "flagged")
    assert exported.manifest.names.logits == "y"


def test_a_drop_in_graph_in_half_precision_keeps_names_and_types(four: Any) -> None:
    exported = four("same", "fp16")
    session = _session((exported.out / "guarded.onnx").read_bytes())
    assert [(i.name, i.type) for i in session.get_inputs()] == [("x", "tensor(float)")]
    assert next((o.name, o.type) for o in session.get_outputs()) == ("y", "tensor(float)")


@pytest.mark.parametrize("client_input", INPUTS)
def test_the_manifest_names_the_users_file(four: Any, client_input: ClientInput) -> None:
    exported = four(client_input, "fp32")
    manifest, content = exported.manifest, exported.model.SerializeToString()
    assert manifest.classifier.source == "onnx"
    assert manifest.classifier.file_sha256 == hashlib.sha256(content).hexdigest()
    assert manifest.classifier.digest == _digest(content)
    assert (manifest.opset, manifest.precision) == (18, "fp32")
    assert manifest.detection.threshold == manifest.detection.fitted_threshold
    same = client_input == "same"
    tensor = manifest.tensor
    assert (tensor.name, tensor.dtype, tensor.layout) == (
        ("x", "float32", "nchw") if same else ("image", "uint8", "nhwc")
    )
    if not same:
        assert manifest.outputs == ("logits", "label", "score", "flagged")
        assert manifest.names.all() == manifest.outputs
    assert Manifest.read(exported.out) == manifest


def _digest(content: bytes) -> str:
    """SHA-256 over nodes and initialisers of a file without notes, in a few lines of one's own."""
    graph = onnx.load_from_string(content).graph
    parts = [part.SerializeToString() for part in (*graph.node, *graph.initializer)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize("client_input", INPUTS)
def test_half_precision_is_calibrated_anew_and_says_so(
    four: Any, client_input: ClientInput
) -> None:
    full, half = four(client_input, "fp32"), four(client_input, "fp16")
    before, after = full.manifest.detection, half.manifest.detection
    assert after.fitted_threshold == before.threshold != after.threshold
    assert_close(after.threshold, before.threshold, SCORE)
    assert half.manifest.classifier.file_sha256 == full.manifest.classifier.file_sha256
    assert half.manifest.classifier.digest != full.manifest.classifier.digest


# Files of other forms


@pytest.mark.parametrize("client_input", INPUTS)
@pytest.mark.parametrize("opset", [13, 17, 20, 23])
def test_every_opset_is_kept(
    in_front_of: Wrap,
    tmp_path: Path,
    pixels: NDArray[np.uint8],
    client_input: ClientInput,
    opset: int,
) -> None:
    exported = _export(
        in_front_of, tmp_path / "out", twin_model(opset=opset), client_input=client_input
    )
    assert exported.manifest.opset == opset
    assert onnx.load(tmp_path / "out" / "guarded.onnx").opset_import[0].version == opset
    _assert_serves_as_the_modules(exported, pixels)
    if client_input == "same":
        _assert_drops_in(exported, pixels)


@pytest.mark.parametrize("client_input", INPUTS)
def test_channels_last(
    in_front_of: Wrap, tmp_path: Path, pixels: NDArray[np.uint8], client_input: ClientInput
) -> None:
    exported = _export(
        in_front_of,
        tmp_path / "out",
        twin_model(layout="nhwc"),
        "nhwc",
        client_input=client_input,
    )
    assert exported.manifest.tensor.shape(exported.manifest.input) == (12, 12, 1)
    _assert_serves_as_the_modules(exported, pixels)
    if client_input == "same":
        _assert_drops_in(exported, pixels)


@pytest.mark.parametrize("client_input", INPUTS)
@pytest.mark.parametrize("batch", [1, None])
def test_a_batch_axis_that_was_fixed_or_nameless_is_free(
    in_front_of: Wrap,
    tmp_path: Path,
    pixels: NDArray[np.uint8],
    client_input: ClientInput,
    batch: int | None,
) -> None:
    exported = _export(
        in_front_of, tmp_path / "out", twin_model(batch=batch), client_input=client_input
    )
    _assert_serves_as_the_modules(exported, pixels)
    if client_input == "same":
        _assert_drops_in(exported, pixels)


def test_an_answer_of_open_width_is_declared(
    in_front_of: Wrap, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    model = twin_model()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"
    exported = _export(in_front_of, tmp_path / "out", model, client_input="same")
    _assert_serves_as_the_modules(exported, pixels)


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
    exported = _export(
        in_front_of,
        tmp_path / "out",
        twin_model(softmax=True, answer="probabilities"),
        client_input=client_input,
        precision=precision,
    )
    _assert_serves_as_the_modules(exported, pixels)
    assert exported.manifest.parity.unflagged_bit_equal
    answers = ("logits", "label", "score", "flagged")
    assert exported.manifest.names.all() == answers
    same = client_input == "same"
    assert exported.manifest.outputs == (("probabilities", *answers) if same else answers)
    if same and precision == "fp32":
        _assert_drops_in(exported, pixels)
        own = to_tensor(pixels, exported.manifest.input, exported.manifest.tensor)
        given = _answers((tmp_path / "out" / "guarded.onnx").read_bytes(), own)
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
    exported = _export(in_front_of, tmp_path / "out", model, client_input=client_input)
    _assert_serves_as_the_modules(exported, pixels)
    if client_input == "same":
        assert exported.manifest.outputs == ("y", "features", "label", "score", "flagged")
        _assert_drops_in(exported, pixels)
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
    exported = _export(in_front_of, tmp_path / "out", model, client_input=client_input)
    _assert_serves_as_the_modules(exported, pixels)
    if client_input == "same":
        _assert_drops_in(exported, pixels)


def test_weights_listed_as_inputs_are_no_inputs_of_the_graph(
    in_front_of: Wrap, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    model = twin_model()
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
    )
    exported = _export(in_front_of, tmp_path / "out", model, client_input="same", with_bare=True)
    for name in ("guarded.onnx", "bare.onnx"):
        session = _session((tmp_path / "out" / name).read_bytes())
        assert [value.name for value in session.get_inputs()] == ["x"]
    _assert_serves_as_the_modules(exported, pixels)
    assert exported.manifest.classifier.digest == _digest(model.SerializeToString())


def test_the_standard_domain_may_be_spelt_out(
    in_front_of: Wrap, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    model = twin_model()
    model.opset_import[0].domain = "ai.onnx"
    exported = _export(in_front_of, tmp_path / "out", model, client_input="same")
    _assert_serves_as_the_modules(exported, pixels)
    _assert_drops_in(exported, pixels)


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
    clean = _digest(before.SerializeToString())
    constant.attribute[0].t.doc_string = PATH
    graph.node.insert(0, constant)
    model.doc_string = graph.doc_string = graph.node[1].doc_string = PATH
    graph.node[1].attribute[0].doc_string = graph.initializer[0].doc_string = PATH
    graph.input[0].doc_string = graph.output[0].doc_string = PATH
    for part in (model, graph, graph.node[2], graph.initializer[1], graph.input[0]):
        part.metadata_props.add(key="source", value=PATH)
    exported = _export(in_front_of, tmp_path / "out", model, with_bare=True)
    for name in ("guarded.onnx", "bare.onnx", "manifest.json"):
        assert b"somebody" not in (tmp_path / "out" / name).read_bytes()
    manifest = exported.manifest
    assert manifest.classifier.digest == clean
    content = model.SerializeToString()
    assert manifest.classifier.file_sha256 == hashlib.sha256(content).hexdigest()
