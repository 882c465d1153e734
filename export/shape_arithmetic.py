"""Which nodes onnxruntime leaves to the CPU although the GPU could run them.

What computes on shapes only is small, and its result is wanted on the CPU, by Reshape or Slice. So
onnxruntime leaves a node to the CPU when every input of it is a small constant, an input of the
graph, or lies on the CPU already without the kernel asking for that (`GetCpuPreferredNodes`).
"""

import math
from collections.abc import Mapping

import onnx

_SMALL = 100
"""Elements of a constant that onnxruntime still calls small."""
_CPU_OUTPUTS = ("Shape", "Size", "SequenceLength")
_NEVER = ("float16", "bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz")
_AXES = (1,)
_CPU_INPUTS: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Dropout": (1, 2),
    "Expand": _AXES,
    "If": (0,),
    "Loop": (0, 1),
    "NonMaxSuppression": (2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Reshape": _AXES,
    "Resize": (1, 2, 3),
    "SequenceAt": (1,),
    "SequenceErase": (1,),
    "SequenceInsert": (2,),
    "Slice": (1, 2, 3, 4),
    "Split": _AXES,
    "Squeeze": _AXES,
    "Tile": _AXES,
    "TopK": _AXES,
    "Trilu": _AXES,
    "Unsqueeze": _AXES,
    "Upsample": _AXES,
} | {
    f"Reduce{kind}": _AXES
    for kind in (
        *("L1", "L2", "LogSum", "LogSumExp", "Max"),
        *("Mean", "Min", "Prod", "Sum", "SumSquare"),
    )
}
"""Inputs that the CUDA kernels take from the CPU; the registry keeps this apart from the types."""


def left_to_the_cpu(
    graph: onnx.GraphProto,
    with_kernel: set[int],
    types: Mapping[str, str],
    small: set[str],
) -> set[int]:
    """Positions of the nodes that have a CUDA kernel and are left to the CPU all the same.

    Args:
        graph: in topological order.
        with_kernel: positions of the nodes that have a CUDA kernel.
        types: element type of each tensor.
        small: names of small constants, those around `graph` included.
    """
    free = small_constants(graph) | small | {value.name for value in graph.input}
    on_cpu: set[str] = set()
    chosen: set[int] = set()
    for index, node in enumerate(graph.node):
        if on_cpu.intersection(node.input):
            if index not in with_kernel:
                on_cpu.update(node.output)
            elif all(_fits(node, place, types, free, on_cpu) for place in range(len(node.input))):
                chosen.add(index)
                on_cpu.update(node.output)
        if index in with_kernel and node.op_type in _CPU_OUTPUTS:
            on_cpu.update(node.output)
    return chosen


def small_constants(graph: onnx.GraphProto) -> set[str]:
    """Names of the constants that onnxruntime calls small."""
    return {tensor.name for tensor in graph.initializer if math.prod(tensor.dims) <= _SMALL}


def _fits(
    node: onnx.NodeProto, place: int, types: Mapping[str, str], free: set[str], on_cpu: set[str]
) -> bool:
    name = node.input[place]
    if types.get(name) in _NEVER:
        return False
    if name in free:
        return True
    return name in on_cpu and place not in _CPU_INPUTS.get(node.op_type, ())
