"""Tensors of the Open Inference Protocol, whatever carries them: datatypes, shapes, bytes.

Datatypes are the protocol's words ("UINT8", "FP32"); bytes are little-endian and row-major, as its
"Tensor Data" and the binary data extension have them.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from prn_guard.contract import Manifest
from prn_guard.serve.engine import Outcome, Values
from prn_guard.serve.errors import MalformedError, TooLargeError

DATATYPES: Final[Mapping[str, np.dtype[Any]]] = {
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
_WORDS: Final = {dtype: word for word, dtype in DATATYPES.items()}
_SHOWN: Final = 100
"""Characters of a client's own words that an error repeats."""

ONNX_TYPES: Final[Mapping[str, str]] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
}
"""The protocol's words for onnxruntime's; what is missing has none."""


def input_datatype(manifest: Manifest) -> str:
    """The protocol's word for what the model takes."""
    return _WORDS[np.dtype(manifest.tensor.dtype)]


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

    Returns:
        `(N, ...)`, C-contiguous; raw bytes are not copied, and the array cannot be written to.

    Raises:
        MalformedError: another name, datatype or shape, a length that is not the shape's, numbers
            outside the datatype, or values that are not finite.
        TooLargeError: more pictures.
    """
    tensor = manifest.tensor
    _check_description(manifest, name, datatype, shape)
    if shape[0] > max_pictures:
        raise TooLargeError(
            f"The request holds {str(shape[0])[:_SHOWN]} pictures; at most {max_pictures} may "
            "wait at a time. Send them in parts."
        )
    whole = (shape[0], *tensor.shape(manifest.input))
    dtype = np.dtype(tensor.dtype)
    if isinstance(data, bytes | memoryview):
        values = _from_bytes(data, dtype, whole)
    else:
        values = _from_numbers(data, dtype, whole)
    if dtype.kind == "f" and not np.isfinite(values).all():
        raise MalformedError(
            f"Input {tensor.name!r} holds values that are not finite. A score of such a picture "
            "would mean nothing."
        )
    return values


def _check_description(manifest: Manifest, name: str, datatype: str, shape: Sequence[int]) -> None:
    tensor = manifest.tensor
    wanted = tensor.shape(manifest.input)
    if name != tensor.name:
        raise MalformedError(f"There is no input {name[:_SHOWN]!r}; expected {tensor.name!r}.")
    if datatype != input_datatype(manifest):
        raise MalformedError(
            f"Input {tensor.name!r} has the datatype {datatype[:_SHOWN]!r}; expected "
            f"{input_datatype(manifest)}."
        )
    if len(shape) != 4 or tuple(shape[1:]) != wanted or shape[0] < 1:
        raise MalformedError(
            f"Input {tensor.name!r} has the shape {str(list(shape[:8]))[:_SHOWN]}; expected "
            f"{['N', *wanted]}, N at least 1."
        )


def _from_bytes(data: bytes | memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Values:
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise MalformedError(
            f"The input's data has {len(data)} bytes; expected {expected} for the shape "
            f"{list(shape)}."
        )
    values = np.frombuffer(data, dtype=dtype.newbyteorder("<"))
    # The kernels load whole vectors: floats that do not start at a multiple of 4 are moved.
    return np.require(values.astype(dtype, copy=False).reshape(shape), requirements=["A", "C"])


def _from_numbers(data: Sequence[Any], dtype: np.dtype[Any], shape: tuple[int, ...]) -> Values:
    kinds = "iu" if dtype.kind == "u" else "iuf"
    what = "whole numbers" if dtype.kind == "u" else "numbers"
    if not isinstance(data, np.ndarray) and not _leaves(data) <= {int, float}:
        raise MalformedError(f"The input's data holds something else than {what}.")
    try:
        found = np.asarray(data)
    except (ValueError, OverflowError, TypeError) as error:  # ragged, or nested too deep
        raise MalformedError("The input's data is no array of numbers of one shape.") from error
    if found.dtype.kind not in kinds:
        raise MalformedError(f"The input's data holds something else than {what}.")
    if found.shape != shape and found.shape != (math.prod(shape),):
        raise MalformedError(
            f"The input's data has the shape {str(list(found.shape[:8]))[:_SHOWN]}; expected "
            f"{list(shape)}, or {math.prod(shape)} numbers in a row."
        )
    if dtype.kind == "u" and (found.min() < 0 or found.max() > np.iinfo(dtype).max):
        raise MalformedError(f"The input's data leaves 0..{np.iinfo(dtype).max}.")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return np.ascontiguousarray(found.astype(dtype).reshape(shape))


def _leaves(data: Sequence[Any]) -> set[type]:
    """The types of what nested lists hold; `list` among them where depths differ.

    To be asked before NumPy is: it makes every text as wide as the longest, so that 1 MB of JSON
    takes gigabytes.
    """
    level = data
    while (types := set(map(type, level))) == {list}:
        level = list(chain.from_iterable(level))
    return types


def output_arrays(manifest: Manifest, outcome: Outcome) -> dict[str, npt.NDArray[Any]]:
    """Every output that the outcome holds, by its name in the graph, in the graph's order."""
    names, verdict = manifest.names, outcome.verdict
    held: dict[str, npt.NDArray[Any]] = {
        names.logits: verdict.logits,
        names.label: verdict.label,
        names.score: verdict.score,
        names.flagged: verdict.flagged,
        **outcome.extras,
    }
    return {name: held[name] for name in manifest.outputs if name in held}


def datatype_of(values: npt.NDArray[Any]) -> str:
    """The protocol's word for an array's dtype."""
    return _WORDS[values.dtype.newbyteorder("<")]


def to_bytes(values: npt.NDArray[Any]) -> bytes:
    """Raw little-endian bytes, row-major."""
    if sys.byteorder == "big":
        values = values.astype(values.dtype.newbyteorder("<"))
    return values.tobytes()
