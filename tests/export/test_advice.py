"""What docs/check-refuses.md advises helps, and changes no answer."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import version_converter
from torch import Tensor, nn

from export.placement import table_placement
from tests.export.conftest import Artifact
from tests.export.small_graphs import model, node
from tests.tolerances import REWRITTEN, assert_close

PICTURES = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)


def fallen(proto: onnx.ModelProto) -> list[str]:
    return [one.op for one in table_placement(proto.SerializeToString())[1]]


def answer(proto: onnx.ModelProto, value: npt.NDArray[Any] = PICTURES) -> npt.NDArray[Any]:
    content = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: value})
    return np.asarray(result)


def test_converting_to_opset_21_brings_pooling_back() -> None:
    late = model([node("MaxPool", "x", "y", kernel_shape=[2, 2])], opset=23)
    converted = version_converter.convert_version(late, 21)
    assert (fallen(late), fallen(converted)) == (["MaxPool"], [])
    assert np.array_equal(answer(late), answer(converted))


def test_cropping_replaces_uneven_padding() -> None:
    weights = {"w": np.random.default_rng(0).normal(size=(3, 2, 3, 3)).astype(np.float32)}
    uneven = [node("ConvTranspose", "x w", "y", pads=[0, 0, 1, 1], strides=[2, 2])]
    cropped = [node("ConvTranspose", "x w", "t", strides=[2, 2]), node("Slice", "t lo hi ax", "y")]
    places = {"lo": np.array([0, 0]), "hi": np.array([-1, -1]), "ax": np.array([2, 3])}
    before, after = model(uneven, weights=weights), model(cropped, weights=weights | places)
    assert (fallen(before), fallen(after)) == (["ConvTranspose"], [])
    assert np.array_equal(answer(before), answer(after))


class Pooled(nn.Module):
    """A permuted picture, averaged; contiguous in between or not."""

    def __init__(self, contiguous: bool) -> None:
        super().__init__()
        self.contiguous = contiguous

    def forward(self, pictures: Tensor) -> Tensor:
        permuted = pictures.permute(0, 3, 1, 2)
        if self.contiguous:
            permuted = permuted.contiguous()
        return nn.functional.adaptive_avg_pool2d(permuted, 1).flatten(1)


def _exported(module: nn.Module) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter are not ours to mend
        program = torch.onnx.export(
            module.eval(),
            (torch.zeros(2, 8, 8, 3),),
            dynamo=True,
            opset_version=20,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def test_contiguous_removes_shape_arithmetic() -> None:
    before, after = _exported(Pooled(False)), _exported(Pooled(True))
    assert (fallen(before), fallen(after)) == (["Squeeze"], [])
    pictures = np.ascontiguousarray(PICTURES.transpose(0, 2, 3, 1))
    assert_close(answer(after, pictures), answer(before, pictures), REWRITTEN)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            [
                node("Cast", "x", "i", to=onnx.TensorProto.INT32),
                node("ArgMax", "i", "y", axis=1),
            ],
            [node("Floor", "x", "i"), node("ArgMax", "i", "y", axis=1)],
        ),
        (
            [node("Tan", "x", "y")],
            [node("Sin", "x", "s"), node("Cos", "x", "c"), node("Div", "s c", "y")],
        ),
    ],
)
def test_another_operator_or_type_has_a_kernel(
    before: list[onnx.NodeProto], after: list[onnx.NodeProto]
) -> None:
    first, second = model(before), model(after)
    assert (fallen(first), fallen(second)) == ([before[-1].op_type], [])
    value = np.abs(np.sin(PICTURES))
    assert_close(answer(second, value), answer(first, value), REWRITTEN)


def test_the_exported_guard_needs_no_advice(artifact: Artifact) -> None:
    assert fallen(artifact.graph.model) == []
