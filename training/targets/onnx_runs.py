"""Running an ONNX graph in onnxruntime on the CPU: the reference for everything made from it."""

import os
from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

Floats = NDArray[np.float32]

LARGEST_DIFFERENCE: Final = 1e-4
"""Relative: what float32 sums in another order may make of the same logits."""

# As prn_guard.session.SAFE_ENTRIES, which this side must not import.
_SAFE_ENTRIES: Final = {
    # A graph loaded from bytes would take external weights from the working directory.
    "session.model_external_initializers_file_folder_path": os.devnull,
    # Else a model with a mark at byte 4, in its producer's name say, is read as another format.
    "session.load_model_format": "ONNX",
}


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
        for name, value in _SAFE_ENTRIES.items():
            options.add_session_config_entry(name, value)
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
