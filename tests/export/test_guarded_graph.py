"""The graph itself: names, types, operators, and what it must not carry along."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from export.guarded_graph import ServedGuard, _name_batch, bare_graph, unit_pixels
from prn_guard.contract import InputSpec
from prn_guard.errors import TargetError
from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.nn.target import Target
from tests.export.conftest import Artifact
from tests.training.small import SIDE
from tests.training.tiny_guard import Workplace


@pytest.fixture(scope="module")
def model(artifact: Artifact) -> onnx.ModelProto:
    return onnx.load_model_from_string(artifact.graph)


def _signature(values: list[onnx.ValueInfoProto]) -> dict[str, tuple[int, list[int | str]]]:
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


def test_names_types_and_shapes(model: onnx.ModelProto) -> None:
    kinds = onnx.TensorProto
    assert _signature(model.graph.input) == {"image": (kinds.UINT8, ["batch", SIDE, SIDE, 1])}
    assert _signature(model.graph.output) == {
        "logits": (kinds.FLOAT, ["batch", 3]),
        "label": (kinds.INT64, ["batch"]),
        "score": (kinds.FLOAT, ["batch"]),
        "flagged": (kinds.BOOL, ["batch"]),
    }


def test_the_batch_axis_is_named_where_the_exporter_left_a_number() -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3])
    graph = onnx.helper.make_graph([], "unnamed", [value], [value])
    unnamed = onnx.helper.make_model(graph)
    _name_batch(unnamed)
    assert _signature(unnamed.graph.input) == {"x": (onnx.TensorProto.FLOAT, ["batch", 3])}
    assert _signature(unnamed.graph.input) == _signature(unnamed.graph.output)


def test_only_standard_operators_of_opset_20(model: onnx.ModelProto) -> None:
    assert {opset.domain: opset.version for opset in model.opset_import}.get("") == 20
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    onnx.checker.check_model(model, full_check=True)


def test_the_target_runs_once(model: onnx.ModelProto, artifact: Artifact) -> None:
    bare = onnx.load_model_from_string(artifact.bare)
    linear = [node for node in model.graph.node if node.op_type in {"Gemm", "Where"}]
    # The target's two linear layers, and the choice before them.
    assert [node.op_type for node in linear] == ["Where", "Gemm", "Gemm"]
    assert [node.op_type for node in bare.graph.node].count("Gemm") == 2


def test_no_trace_of_the_machine_it_was_made_on(artifact: Artifact, work: Workplace) -> None:
    repository = Path(__file__).resolve().parents[2]
    for graph in (artifact.graph, artifact.bare):
        for trace in (str(repository), str(Path.home()), str(work.factory), "/tmp", ".py", "File "):  # noqa: S108
            assert trace.encode() not in graph, trace
    manifest = (artifact.folder / "manifest.json").read_text()
    for trace in (str(repository), str(work.factory.parent), ".py"):
        assert trace not in manifest


def test_nothing_is_noted_on_nodes(model: onnx.ModelProto) -> None:
    parts = [model, model.graph, *model.graph.node, *model.graph.initializer]
    parts += [*model.graph.value_info, *model.graph.input, *model.graph.output]
    assert [part for part in parts if part.doc_string or part.metadata_props] == []


def test_pictures_become_unit_pixels() -> None:
    image = torch.arange(2 * 3 * 4 * 3, dtype=torch.uint8).reshape(2, 3, 4, 3)
    pixels = unit_pixels(image)
    assert np.array_equal(pixels.numpy(), image.numpy().transpose(0, 3, 1, 2) / np.float32(255))
    assert pixels.is_contiguous()


@torch.no_grad()
def test_the_served_module_answers_as_the_guard(guarded: GuardedClassifier) -> None:
    image = torch.randint(256, (5, SIDE, SIDE, 1), generator=torch.Generator().manual_seed(0))
    answer = ServedGuard(guarded)(image.to(torch.uint8))
    direct = guarded(image.permute(0, 3, 1, 2).float() / 255)
    assert all(torch.equal(one, other) for one, other in zip(answer, direct[:4], strict=True))


class Branching(nn.Module):
    """Asks about values, which no graph can follow."""

    def forward(self, images: Tensor) -> Tensor:
        total = images.sum()
        return images.flatten(1)[:, :2] * (2 if float(total) > 0 else 3)


def test_a_target_without_onnx_form_is_refused() -> None:
    spec = InputSpec(channels=1, height=8, width=8, mean=(0.0,), std=(1.0,), channel_order="gray")
    with pytest.raises(
        TargetError, match=r"cannot be exported to ONNX: .* no branches on"
    ) as error:
        bare_graph(Target(Branching(), spec), spec)
    assert "data-dependent" in str(error.value)
    assert "\n" not in str(error.value)
