"""Tiny ONNX models, made by hand."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.placement import Fallback, table_placement

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
INT32, INT64 = onnx.TensorProto.INT32, onnx.TensorProto.INT64
DOUBLE, BOOL = onnx.TensorProto.DOUBLE, onnx.TensorProto.BOOL
FLATTEN = {"zero": np.int64(0), "zeros": np.zeros(1, np.int64), "rest": -np.ones(1, np.int64)}


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; tensors by name, spaces between them."""
    made = outputs.split()
    return helper.make_node(op, inputs.split(), made, name=f"{op}_{made[0]}", **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    *,
    opset: int = 20,
    inputs: dict[str, tuple[int, Sequence[Any]]] | None = None,
    outputs: Iterable[str] = ("y",),
    weights: dict[str, Any] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model of `nodes`; its one input is `x`, float32 of (N, 3, 8, 8), unless told otherwise."""
    taken = inputs or {"x": (FLOAT, ("N", 3, 8, 8))}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, *rest) for name, rest in taken.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(w), name) for name, w in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(
        graph, opset_imports=imports, functions=functions, ir_version=10 if opset > 20 else 8
    )


def falls(proto: onnx.ModelProto) -> tuple[Fallback, ...]:
    return table_placement(proto.SerializeToString())[1]


def ops(proto: onnx.ModelProto) -> list[str]:
    return [one.op for one in falls(proto)]
