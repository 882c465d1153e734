"""A graph's tensors in Triton's terms: names, data types, dimensions without the batch.

Triton's ONNX Runtime backend compares config.pbtxt with what onnxruntime says of the graph, so
onnxruntime is asked here too: an extra output's shape may stand nowhere in the file.
"""

from dataclasses import dataclass
from typing import Any, Final

from prn_guard.contract import GRAPH_FILE, Manifest
from prn_guard.errors import ArtifactError, InvalidArgumentError
from prn_guard.session import load_graph

_DATA_TYPES: Final = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
_INPUT_TYPES: Final = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


@dataclass(frozen=True)
class Tensor:
    """One input or output; `dims` has no batch axis, and -1 where a length is free."""

    name: str
    data_type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Interface:
    """What clients of a model rely on."""

    input: Tensor
    outputs: tuple[Tensor, ...]
    logits: str
    """The output that the class names belong to."""
    class_names: tuple[str, ...]


def read_interface(manifest: Manifest, graph: bytes) -> Interface:
    """Inputs and outputs of `graph`, in its own order, checked against its manifest.

    Raises:
        ArtifactError: the graph does not load, or is not what the manifest describes.
        InvalidArgumentError: Triton cannot serve one of its tensors in batches, or its class names
            cannot be written one a line.
    """
    session = load_graph(graph, "cpu", GRAPH_FILE)
    inputs = tuple(_tensor("input", value) for value in session.get_inputs())
    outputs = tuple(_tensor("output", value) for value in session.get_outputs())
    stated = Tensor(
        manifest.tensor.name,
        _INPUT_TYPES[manifest.tensor.dtype],
        manifest.tensor.shape(manifest.input),
    )
    if inputs != (stated,):
        raise ArtifactError(
            f"The graph takes {inputs}; by its manifest it takes {stated} alone. Export the guard "
            "anew."
        )
    found = tuple(output.name for output in outputs)
    if found != manifest.outputs or not set(manifest.names.all()) <= set(found):
        raise ArtifactError(
            f"The graph gives {list(found)}; by its manifest {list(manifest.outputs)}, the guard's "
            f"{list(manifest.names.all())} among them. Export the guard anew."
        )
    broken = [name for name in manifest.class_names if set(name) & set("\r\n\0")]
    if broken:
        raise InvalidArgumentError(
            f"The class name {broken[0]!r} holds a line break or a zero byte; Triton reads class "
            "names one a line. Rename the class and export the guard anew."
        )
    return Interface(stated, outputs, manifest.names.logits, manifest.class_names)


def _tensor(kind: str, value: Any) -> Tensor:
    data_type = _DATA_TYPES.get(value.type)
    if data_type is None:
        raise InvalidArgumentError(
            f"The {kind} {value.name!r} is a {value.type}; Triton serves {sorted(_DATA_TYPES)}. "
            "Take that output out of the classifier's graph, then export the guard anew."
        )
    if not value.shape or isinstance(value.shape[0], int):
        raise InvalidArgumentError(
            f"The {kind} {value.name!r} has the shape {value.shape}; to put pictures of several "
            "requests into one batch, Triton needs a free first axis on every tensor. Take that "
            "output out of the classifier's graph, then export the guard anew."
        )
    dims = tuple(length if isinstance(length, int) else -1 for length in value.shape[1:])
    return Tensor(value.name, data_type, dims)
