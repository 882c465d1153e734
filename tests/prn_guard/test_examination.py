"""A guard that shows what it made of the pictures."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from prn_guard import Guard
from prn_guard.contract import Manifest
from prn_guard.description import describe
from prn_guard.errors import ArtifactError
from prn_guard.execution import _check_rectified
from tests.prn_guard.tiny import CHANNELS, SIZE, tiny_spec

NAME = "seen"


def show(model, *, divisor=255.0, axes=(0, 1, 2, 3), kind=onnx.TensorProto.FLOAT):
    """Let the tiny graph answer with its halved pixels over `divisor`."""
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.float32(divisor), "divisor"))
    graph.node.append(helper.make_node("Div", ["halved", "divisor"], ["quotient"]))
    graph.node.append(helper.make_node("Transpose", ["quotient"], ["turned"], perm=axes))
    graph.node.append(helper.make_node("Cast", ["turned"], [NAME], to=kind))
    sizes = ("N", SIZE, SIZE, CHANNELS)
    shape = [sizes[axis] for axis in axes]
    graph.output.insert(1, helper.make_tensor_value_info(NAME, kind, shape))


def state(manifest):
    manifest["outputs"].insert(1, NAME)
    manifest["names"]["rectified"] = NAME


@pytest.fixture
def showing(write_guard):
    return write_guard(model=show, manifest=state)


def assert_verdicts(verdict, values):
    for name in ("label", "logits", "score", "flagged"):
        np.testing.assert_array_equal(getattr(verdict, name), values[name], err_msg=name)


@pytest.mark.parametrize(("batch_size", "buckets"), [(64, None), (5, None), (64, (2, 8))])
def test_rectified_pictures_come_beside_the_verdict(
    showing, pictures, expected, batch_size, buckets
):
    examination = Guard(showing, buckets=buckets).examine(pictures, batch_size=batch_size)
    assert_verdicts(examination.verdict, expected(pictures))
    # Halving is exact, so that one division in float32 gives the very bits.
    halved = (pictures / np.float32(2)).astype(np.float32) / np.float32(255)
    assert examination.rectified.dtype == np.float32
    np.testing.assert_array_equal(examination.rectified, halved)


def test_classifying_does_not_ask_for_them(showing, pictures, expected):
    assert_verdicts(Guard(showing).classify(pictures), expected(pictures))


@pytest.mark.parametrize("batch_size", [64, 5])
def test_a_graph_without_them_says_so(folder, pictures, expected, batch_size):
    examination = Guard(folder).examine(pictures, batch_size=batch_size)
    assert examination.rectified is None
    assert_verdicts(examination.verdict, expected(pictures))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"axes": (0, 3, 1, 2)}, r"output 'seen' is"),
        ({"kind": onnx.TensorProto.DOUBLE}, r"output 'seen' is tensor\(double\)"),
        ({"divisor": 1.0}, r"from 64 to 64; expected .* in \[0, 1\]"),
        ({"divisor": -255.0}, r"rectified pictures .* from -0\.25"),
        ({"divisor": 0.0}, r"from inf to inf"),
    ],
)
def test_what_is_no_picture_is_refused_on_load(write_guard, change, said):
    broken = write_guard(model=lambda model: show(model, **change), manifest=state)
    with pytest.raises(ArtifactError, match=said):
        Guard(broken)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e-3, 1.001])
def test_one_value_that_is_none_is_noticed(value):
    pixels = np.full((2, SIZE, SIZE, CHANNELS), 0.5, np.float32)
    _check_rectified(pixels, tiny_spec(), 2, "here")
    pixels[1, 2, 3, 0] = value
    with pytest.raises(ArtifactError, match="here answers with rectified pictures"):
        _check_rectified(pixels, tiny_spec(), 2, "here")


@pytest.mark.parametrize("name", ["score", "unheard of"])
def test_its_name_must_be_an_output_of_its_own(write_guard, name):
    broken = write_guard(
        model=show, manifest=lambda m: (state(m), m["names"].update(rectified=name))
    )
    with pytest.raises(ArtifactError, match=r"none twice|among the outputs"):
        Guard(broken)


def test_a_manifest_names_it_only_where_it_is(showing, tmp_path):
    with_it = Manifest.read(showing)
    assert with_it.names.on_request == (NAME,)
    assert dict(describe(with_it))["answers"].endswith(f"rectified: {NAME}")
    with_it.write(tmp_path)
    assert Manifest.read(tmp_path) == with_it


def test_a_manifest_without_it_is_written_as_ever(folder, tmp_path):
    manifest = Manifest.read(folder)
    assert manifest.names.on_request == ()
    manifest.write(tmp_path)
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert set(written["names"]) == {"logits", "label", "score", "flagged"}
    assert not any("rectified" in name for name in written["parity"])
