"""What the torch exporter must not leave in a graph, and the targets it cannot follow."""

import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from export.exporter import forget_sources, name_batch, to_onnx
from prn_guard.errors import TargetError


def test_the_batch_axis_is_named_where_a_number_stood() -> None:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3])
    graph = helper.make_graph([], "unnamed", [value], [value])
    name_batch(graph)
    for end in (*graph.input, *graph.output):
        batch, rest = end.type.tensor_type.shape.dim
        assert (batch.dim_param, batch.WhichOneof("value"), rest.dim_value) == (
            "batch", "dim_param", 3,
        )  # fmt: skip


def test_the_exporters_notes_are_removed_at_every_depth() -> None:
    noted = onnx.StringStringEntryProto(key="stack_trace", value='File "/home/me/net.py"')
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    inner = helper.make_node("Identity", ["x"], ["y"], doc_string="/home/me")
    inner.metadata_props.append(noted)
    branch = helper.make_graph([inner], "branch", [], [value], doc_string="/home/me")
    branch.metadata_props.append(noted)
    outer = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    outer.metadata_props.append(noted)
    outer.attribute[0].doc_string = "/home/me"
    model = helper.make_model(helper.make_graph([outer], "g", [value], [value]))
    model.metadata_props.append(noted)
    model.graph.input[0].doc_string = "/home/me"
    function = helper.make_function("own", "F", ["x"], ["y"], [inner], [])
    function.doc_string = "/home/me"
    model.functions.append(function)
    before = len(model.SerializeToString())
    forget_sources(model)
    assert b"/home/me" not in model.SerializeToString()
    assert len(model.SerializeToString()) < before
    computed = model.graph.node[0].attribute[0].g.node[0]
    assert (computed.op_type, list(computed.input), list(computed.output)) == (
        "Identity", ["x"], ["y"],
    )  # fmt: skip


class Branching(nn.Module):
    """Asks about values, which no graph can follow."""

    def forward(self, images: Tensor) -> Tensor:
        total = images.sum()
        return images.flatten(1)[:, :2] * (2 if float(total) > 0 else 3)


def test_a_target_without_onnx_form_is_refused() -> None:
    with pytest.raises(
        TargetError, match=r"cannot be exported to ONNX: .* no branches on"
    ) as error:
        to_onnx(Branching(), torch.zeros(2, 1, 8, 8), opset=20, image="image", outputs=("logits",))
    assert "data-dependent" in str(error.value)
    assert "\n" not in str(error.value)
