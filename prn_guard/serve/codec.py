"""An infer response of the Open Inference Protocol, as JSON or with raw bytes after it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy.typing as npt

from prn_guard.serve.errors import InferenceFailedError
from prn_guard.serve.tensors import datatype_of, to_bytes

HEADER_LENGTH: Final = "Inference-Header-Content-Length"


@final
@dataclass(frozen=True, slots=True)
class Encoded:
    """A response's body and the headers that say how to read it."""

    body: bytes
    headers: dict[str, str]


def encode_response(
    *,
    model_name: str,
    model_version: str,
    request_id: str,
    arrays: Mapping[str, npt.NDArray[Any]],
    binary: Mapping[str, bool],
) -> Encoded:
    """Write an infer response.

    Args:
        model_name: that answered.
        model_version: likewise.
        request_id: the client's own, repeated; empty where it gave none.
        arrays: the outputs by name.
        binary: which of them are to follow the JSON as raw bytes.

    Raises:
        InferenceFailedError: an output is to be JSON, and holds a value that JSON cannot write.
    """
    raw: list[bytes] = []
    outputs: list[dict[str, Any]] = []
    for name, values in arrays.items():
        entry: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(values),
            "shape": list(values.shape),
        }
        if binary[name]:
            raw.append(to_bytes(values))
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = values.ravel().tolist()
        outputs.append(entry)
    content: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if request_id:
        content["id"] = request_id
    text = _json({**content, "outputs": outputs})
    if not raw:
        return Encoded(text, {"Content-Type": "application/json"})
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return Encoded(b"".join([text, *raw]), headers)


def _json(content: dict[str, Any]) -> bytes:
    try:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise InferenceFailedError(
            "An output holds values that are not finite, which JSON cannot write. Ask for it as "
            "binary data."
        ) from error
