"""Running graphs in tests, and what must not run."""

from typing import Any

import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray


def answers_of(model: onnx.ModelProto, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """All outputs of a graph of one input, by name."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: image}), strict=True))


def no_work(*_: object, **__: object) -> None:
    """Stands for the long part of a command that must be refused before."""
    pytest.fail("the long part began")
