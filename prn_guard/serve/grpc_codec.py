"""Infer requests and responses of the Open Inference Protocol's gRPC form, to and from NumPy.

Source: Open Inference Protocol, gRPC, "Inference" and "Tensor Data".
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from prn_guard.contract import Manifest
from prn_guard.serve.engine import Values
from prn_guard.serve.errors import MalformedError, TooLargeError
from prn_guard.serve.grpc_messages import MESSAGES
from prn_guard.serve.requests import MAX_ID, MAX_OUTPUTS, MICROSECONDS, InferRequest
from prn_guard.serve.tensors import datatype_of, input_values, to_bytes

_TYPED: Final[Mapping[str, tuple[str, type[np.generic]]]] = {
    "UINT8": ("uint_contents", np.uint32),
    "FP32": ("fp32_contents", np.float32),
}
"""The field of InferTensorContents for each datatype that a graph here may take."""
_LONGEST_SHAPE: Final = 8


def decode_request(
    request: Any, manifest: Manifest, *, max_pictures: int, max_numbers: int
) -> InferRequest:
    """Read an infer request.

    Args:
        request: a `ModelInferRequest`.
        manifest: of the model.
        max_pictures: most that one request may hold.
        max_numbers: most of a tensor that comes as numbers; raw bytes are not counted.

    Raises:
        MalformedError: it breaks the protocol, or does not fit the model.
        TooLargeError: more pictures or numbers than that.
    """
    if len(request.id) > MAX_ID:
        raise MalformedError(f"The id must be of at most {MAX_ID} characters.")
    parameters = _parameters(request, "The request")
    return InferRequest(
        id=request.id,
        values=_values(request, manifest, max_pictures, max_numbers),
        outputs=_outputs(request),
        binary=True,
        timeout=_timeout(parameters.get("timeout")),
    )


def encode_response(
    *,
    model_name: str,
    model_version: str,
    request_id: str,
    arrays: Mapping[str, npt.NDArray[Any]],
) -> bytes:
    """Write an infer response, its data as raw bytes.

    Args:
        model_name: what answered.
        model_version: its version.
        request_id: as the client gave it.
        arrays: the outputs by name, in order.
    """
    response = MESSAGES["ModelInferResponse"](
        model_name=model_name, model_version=model_version, id=request_id
    )
    for name, values in arrays.items():
        response.outputs.add(name=name, datatype=datatype_of(values), shape=values.shape)
        response.raw_output_contents.append(to_bytes(values))
    return bytes(response.SerializeToString())


def _values(request: Any, manifest: Manifest, max_pictures: int, max_numbers: int) -> Values:
    if len(request.inputs) != 1:
        raise MalformedError(f"The request has {len(request.inputs)} inputs; expected 1.")
    tensor = request.inputs[0]
    _parameters(tensor, "The input")
    return input_values(
        manifest,
        name=tensor.name,
        datatype=tensor.datatype,
        shape=tuple(tensor.shape[: _LONGEST_SHAPE + 1]),
        data=_data(request, tensor, max_numbers),
        max_pictures=max_pictures,
    )


def _data(request: Any, tensor: Any, max_numbers: int) -> Any:
    """Raw bytes, or the numbers of the field that belongs to the datatype."""
    raw = request.raw_input_contents
    if len(raw):
        if len(raw) != 1:
            raise MalformedError(f"There are {len(raw)} raw_input_contents for 1 input.")
        if tensor.HasField("contents"):
            raise MalformedError("The input has both contents and raw_input_contents.")
        return raw[0]
    if tensor.datatype not in _TYPED:
        return b""  # refused for its datatype
    field, dtype = _TYPED[tensor.datatype]
    if any(other.name != field for other, _ in tensor.contents.ListFields()):
        raise MalformedError(f"Contents of the datatype {tensor.datatype} stand in {field} only.")
    numbers = getattr(tensor.contents, field)
    if len(numbers) > max_numbers:
        raise TooLargeError(
            f"{field} holds {len(numbers)} numbers; at most {max_numbers} are read one by one. "
            "Send the tensor as raw_input_contents, or fewer pictures at a time."
        )
    expected = math.prod(tensor.shape[:_LONGEST_SHAPE])
    if len(numbers) != expected:
        raise MalformedError(
            f"{field} holds {len(numbers)} numbers; expected {expected} for the shape."
        )
    return np.fromiter(numbers, dtype, len(numbers))


def _outputs(request: Any) -> dict[str, bool] | None:
    if len(request.outputs) > MAX_OUTPUTS:
        raise MalformedError(f"More than {MAX_OUTPUTS} outputs are asked for.")
    outputs: dict[str, bool] = {}
    for output in request.outputs:
        if _parameters(output, "An output").get("classification"):
            raise MalformedError("The classification extension is not served: see /v1/classify.")
        if output.name in outputs:
            raise MalformedError(f"The output {output.name[:100]!r} is asked for twice.")
        outputs[output.name] = True
    return outputs or None


def _parameters(holder: Any, what: str) -> dict[str, Any]:
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice") or "", None)
        for name, value in holder.parameters.items()
    }
    if any(name.startswith("shared_memory") for name in parameters):
        raise MalformedError(f"{what} names shared memory, which this server does not use.")
    return parameters


def _timeout(found: Any) -> float | None:
    """Microseconds, as Triton has them; 0 is its word for none."""
    if isinstance(found, str) and found.isascii() and found.isdecimal():
        found = int(found[:18])
    if found is None or (found == 0 and not isinstance(found, bool)):
        return None
    if isinstance(found, bool | str) or not 0 < found < math.inf:
        raise MalformedError("The parameter 'timeout' must be a number of microseconds.")
    return float(found) * MICROSECONDS
