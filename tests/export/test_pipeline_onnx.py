"""A guard in front of a classifier that exists only as an ONNX file: what clients get from it."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.pipeline import ClientInput
from prn_guard.contract import Manifest
from tests.export.onnx_exports import (
    Exported,
    Wrap,
    assert_drops_in,
    assert_serves_as_the_modules,
    digest_of,
    export_file,
    open_graph,
)
from tests.export.small_classifiers import twin_model
from tests.tolerances import HALF_SCORE, assert_close

pytestmark = pytest.mark.usefixtures("same_front")
INPUTS: tuple[ClientInput, ...] = ("uint8-nhwc", "same")


@pytest.fixture(scope="session")
def four(
    in_front_of: Wrap, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[ClientInput, str], Exported]:
    """The plain file, exported in either input and precision, once each."""

    @functools.cache
    def export(client_input: ClientInput, precision: str) -> Exported:
        out = tmp_path_factory.mktemp("four") / "guarded"
        return export_file(
            in_front_of, out, twin_model(), client_input=client_input, precision=precision
        )

    return export


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("client_input", INPUTS)
def test_every_form_answers_as_the_torch_modules(
    four: Any, pixels: NDArray[np.uint8], client_input: ClientInput, precision: str
) -> None:
    exported = four(client_input, precision)
    assert_serves_as_the_modules(exported, pixels)
    parity = exported.manifest.parity
    assert (parity.label_mismatches, parity.flag_mismatches) == (0, 0)
    assert parity.unflagged_bit_equal


def test_a_drop_in_graph_is_the_users_file_until_it_flags(
    four: Any, pixels: NDArray[np.uint8]
) -> None:
    exported = four("same", "fp32")
    assert_drops_in(exported, pixels)
    assert exported.manifest.outputs == ("y", "label", "score", "flagged")
    assert exported.manifest.names.logits == "y"


def test_a_drop_in_graph_in_half_precision_keeps_names_and_types(four: Any) -> None:
    exported = four("same", "fp16")
    session = open_graph((exported.out / "guarded.onnx").read_bytes())
    assert [(i.name, i.type) for i in session.get_inputs()] == [("x", "tensor(float)")]
    assert next((o.name, o.type) for o in session.get_outputs()) == ("y", "tensor(float)")


@pytest.mark.parametrize("client_input", INPUTS)
def test_the_manifest_names_the_users_file(four: Any, client_input: ClientInput) -> None:
    exported = four(client_input, "fp32")
    manifest, content = exported.manifest, exported.model.SerializeToString()
    assert manifest.classifier.source == "onnx"
    assert manifest.classifier.file_sha256 == hashlib.sha256(content).hexdigest()
    assert manifest.classifier.digest == digest_of(content)
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


@pytest.mark.parametrize("client_input", INPUTS)
def test_half_precision_is_calibrated_anew_and_says_so(
    four: Any, client_input: ClientInput
) -> None:
    full, half = four(client_input, "fp32"), four(client_input, "fp16")
    before, after = full.manifest.detection, half.manifest.detection
    assert after.fitted_threshold == before.threshold != after.threshold
    assert_close(after.threshold, before.threshold, HALF_SCORE)
    assert half.manifest.classifier.file_sha256 == full.manifest.classifier.file_sha256
    assert half.manifest.classifier.digest != full.manifest.classifier.digest
