"""Tensors of the Open Inference Protocol, whatever carries them: datatypes, shapes, bytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prn_guard.contract import Manifest
from prn_guard.serve.engine import Outcome, Values

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}


def input_values(
    manifest: Manifest,
    *,
    name: str,
    datatype: str,
    shape: Sequence[int],
    data: bytes | memoryview | Sequence[Any],
    max_pictures: int,
) -> Values:
    """The model's input out of one tensor of a request, checked against the manifest.

    Args:
        manifest: of the model.
        name: the tensor's.
        datatype: the protocol's word, as "UINT8".
        shape: with the batch first.
        data: raw little-endian bytes, or numbers (flat, or nested as the shape has it).
        max_pictures: most that one request may hold.

    Raises:
        MalformedError: another name, datatype or shape, a length that is not the shape's, numbers
            outside the datatype, or values that are not finite.
        TooLargeError: more pictures.
    """
    raise NotImplementedError


def output_arrays(manifest: Manifest, outcome: Outcome) -> dict[str, npt.NDArray[Any]]:
    """Every output that the outcome holds, by its name in the graph, in the graph's order."""
    raise NotImplementedError


def datatype_of(values: npt.NDArray[Any]) -> str:
    """The protocol's word for an array's dtype."""
    raise NotImplementedError


def to_bytes(values: npt.NDArray[Any]) -> bytes:
    """Raw little-endian bytes, row-major."""
    raise NotImplementedError
