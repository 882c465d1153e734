"""A session over the user's file reads ONNX, and nothing but that file."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from prn_guard import session
from tests.training import tiny_onnx as tiny
from training.targets import onnx_runs
from training.targets.onnx_runs import Reference

IMAGE = np.ones((1, 1, tiny.SIDE, tiny.SIDE), np.float32)


def test_a_file_that_looks_like_another_format_is_read_as_onnx() -> None:
    model = tiny.model()
    expected = Reference(model)(IMAGE)
    model.producer_name = "ORTM"
    assert model.SerializeToString()[4:8] == b"ORTM"
    assert np.array_equal(Reference(model)(IMAGE), expected)


def test_weights_in_the_working_directory_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bias = tiny.weights()["c"]
    (tmp_path / "c.bin").write_bytes(bias.tobytes())
    tensor = numpy_helper.from_array(bias, "c")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="c.bin")
    model = tiny.model()
    (place,) = (each for each in model.graph.initializer if each.name == "c")
    place.CopyFrom(tensor)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=r"c\.bin|external"):
        Reference(model)


def test_the_safeguards_are_those_of_the_runtime() -> None:
    assert onnx_runs._SAFE_ENTRIES == session.SAFE_ENTRIES
