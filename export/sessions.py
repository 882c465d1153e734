"""Run graphs that are not artifacts yet, to compare and to calibrate."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from prn_guard.session import Device, load_graph

Arrays = dict[str, NDArray[Any]]


def require_device(device: Device) -> None:
    """Load a graph of one node onto `device`, to know before long work whether it can be had.

    Raises:
        DeviceError: "cuda" was asked for and cannot be had.
    """
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "one node",
        [value("x", onnx.TensorProto.FLOAT, [1])],
        [value("y", onnx.TensorProto.FLOAT, [1])],
    )
    imports = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)
    load_graph(model.SerializeToString(), device, "a graph of one node")


def runner(
    model: onnx.ModelProto, *, device: Device = "cpu"
) -> Callable[[NDArray[Any], tuple[str, ...]], Arrays]:
    """A function from pictures and names of outputs to those outputs.

    Args:
        model: a graph of one input.
        device: what runs it.

    Returns:
        Takes the input `(N, ...)` in the graph's own layout and type, and names; gives the arrays
        of those names, `(N, ...)` each, in the types that the graph states.

    Raises:
        ArtifactError: the graph does not load.
        DeviceError: "cuda" was asked for and cannot be had.
    """
    session = load_graph(model.SerializeToString(), device, model.graph.name)
    image = session.get_inputs()[0].name

    def run(pictures: NDArray[Any], names: tuple[str, ...]) -> Arrays:
        answered = session.run(list(names), {image: pictures})
        return {name: np.asarray(value) for name, value in zip(names, answered, strict=True)}

    return run
