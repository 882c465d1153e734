"""Run graphs that are not artifacts yet, to compare and to calibrate."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from prn_guard.session import Device, load_graph

Arrays = dict[str, NDArray[Any]]


def runner(
    model: onnx.ModelProto, *, device: Device = "cpu"
) -> Callable[[NDArray[Any], tuple[str, ...]], Arrays]:
    """A function from one input and names of outputs to those outputs.

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
