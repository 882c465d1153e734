"""Running an ONNX graph in onnxruntime on the CPU: the reference for everything made from it."""

from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

Floats = NDArray[np.float32]

LARGEST_DIFFERENCE: Final = 1e-4
"""Relative: what float32 sums in another order may make of the same logits."""


@final
class Reference:
    """A session on the CPU over a graph of one input.

    Args:
        model: the graph; its weights stand inside.

    Raises:
        Exception: onnxruntime's own, of several kinds, where it refuses the graph.
    """

    def __init__(self, model: ModelProto) -> None:
        options = ort.SessionOptions()
        # What it would print is raised as well, and told to the caller.
        options.log_severity_level = 4
        self._session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self.names = [value.name for value in self._session.get_outputs()]

    def __call__(self, images: Floats, names: Sequence[str] | None = None) -> list[Any]:
        """The outputs of those names (all, in the graph's order) for a batch of pictures."""
        wanted = list(names or self.names)
        outputs = self._session.run(wanted, {self._input: np.ascontiguousarray(images)})
        return list(outputs)


def relative_difference(result: Floats, reference: Floats) -> float:
    """Largest absolute difference over the reference's largest absolute value."""
    largest = float(np.abs(reference).max())
    difference = float(np.abs(result.astype(np.float64) - reference).max())
    return difference / largest if largest else difference
