"""An infer request of the Open Inference Protocol, out of its bytes.

The body is JSON, or with the binary data extension JSON of `Inference-Header-Content-Length` bytes
and then the tensors' raw bytes, one after the other. Nothing of it is trusted: whatever is not what
the protocol says is a `MalformedError`.

Sources: Open Inference Protocol, REST, "Inference"; Triton's "Binary Tensor Data Extension".
"""

import contextlib
import gc
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from prn_guard.contract import Manifest
from prn_guard.serve.engine import Values
from prn_guard.serve.errors import MalformedError, TooLargeError
from prn_guard.serve.tensors import input_values

MICROSECONDS: Final = 1e-6
MAX_OUTPUTS: Final = 256
MAX_ID: Final = 256
MAX_JSON: Final = 4 * 2**20
_LENGTH: Final = re.compile(r"[0-9]{1,15}")


@final
@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a client asks."""

    id: str
    """Empty where none was given."""
    values: Values
    outputs: Mapping[str, bool] | None
    """By name, whether its data is to come as bytes; None: all, as `binary` says."""
    binary: bool
    timeout: float | None
    """Seconds that the client allows."""


def parse_request(
    body: bytes,
    header_length: str | None,
    manifest: Manifest,
    *,
    max_pictures: int,
    max_json: int = MAX_JSON,
) -> InferRequest:
    """Read an infer request.

    Args:
        body: the whole.
        header_length: the header `Inference-Header-Content-Length`, where there is one.
        manifest: of the model.
        max_pictures: most that one request may hold.
        max_json: most bytes of JSON.

    Raises:
        MalformedError: it breaks the protocol, or does not fit the model.
        TooLargeError: more pictures or more JSON than that.
    """
    split = _json_length(header_length, len(body))
    if split > max_json:
        raise TooLargeError(
            f"The request's JSON has {split} bytes; at most {max_json} are read. Send the tensor "
            "as binary data after it, or fewer pictures at a time."
        )
    content = _object(_parse(body[:split]), "The request")
    parameters = _parameters(content, "The request")
    binary = _flag(parameters, "binary_data_output", default=False)
    return InferRequest(
        id=_id(content),
        values=_values(content, memoryview(body)[split:], manifest, max_pictures),
        outputs=_outputs(content, binary),
        binary=binary,
        timeout=_timeout(parameters),
    )


def _json_length(header: str | None, length: int) -> int:
    if header is None:
        return length
    stated = int(header) if _LENGTH.fullmatch(header.strip()) else -1
    if not 0 <= stated <= length:
        raise MalformedError(
            f"Inference-Header-Content-Length is {header[:50]!r}; expected a whole number of at "
            f"most the body's {length} bytes."
        )
    return stated


def _parse(text: bytes) -> Any:
    try:
        with _no_collections():
            return json.loads(
                text.decode("utf-8"),
                object_pairs_hook=_without_duplicates,
                parse_constant=_no_number,
            )
    except (ValueError, RecursionError) as error:
        reason = "it nests too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise MalformedError(f"The request cannot be read as JSON: {reason}.") from error


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """JSON has no cycles; to look for some among a million lists took 0.4 of its 0.5 seconds."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return content


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _object(content: Any, what: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise MalformedError(f"{what} is no JSON object.")
    return content


def _list(content: Any, what: str, limit: int) -> list[Any]:
    if not isinstance(content, list) or not 0 < len(content) <= limit:
        raise MalformedError(f"{what} must be a list of 1 to {limit}.")
    return content


def _text(content: Mapping[str, Any], key: str, what: str) -> str:
    found = content.get(key)
    if not isinstance(found, str):
        raise MalformedError(f"{what} needs {key!r}, a string.")
    return found


def _parameters(content: Mapping[str, Any], what: str) -> dict[str, Any]:
    found = content.get("parameters")
    parameters = {} if found is None else _object(found, f"{what}'s 'parameters'")
    if any(key.startswith("shared_memory") for key in parameters):
        raise MalformedError(f"{what} names shared memory, which this server does not use.")
    return parameters


def _flag(parameters: Mapping[str, Any], key: str, *, default: bool) -> bool:
    found = parameters.get(key, default)
    if not isinstance(found, bool):
        raise MalformedError(f"The parameter {key!r} must be true or false.")
    return found


def _id(content: Mapping[str, Any]) -> str:
    found = content.get("id", "")
    if not isinstance(found, str) or len(found) > MAX_ID:
        raise MalformedError(f"'id' must be a string of at most {MAX_ID} characters.")
    try:
        found.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can write
        raise MalformedError("'id' is no Unicode text.") from error
    return found


def _timeout(parameters: Mapping[str, Any]) -> float | None:
    """Microseconds, as Triton has them; 0 is its word for none."""
    found = parameters.get("timeout")
    if isinstance(found, str) and _LENGTH.fullmatch(found):
        found = int(found)
    if found is None or (found == 0 and not isinstance(found, bool)):
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < math.inf:
        raise MalformedError("The parameter 'timeout' must be a number of microseconds.")
    return min(found, 10**18) * MICROSECONDS


def _values(
    content: Mapping[str, Any], raw: memoryview, manifest: Manifest, max_pictures: int
) -> Values:
    tensor = _object(_list(content.get("inputs"), "'inputs'", 1)[0], "The input")
    shape = _list(tensor.get("shape"), "The input's 'shape'", 8)
    if not all(type(size) is int for size in shape):
        raise MalformedError("The input's 'shape' must hold whole numbers.")
    return input_values(
        manifest,
        name=_text(tensor, "name", "The input"),
        datatype=_text(tensor, "datatype", "The input"),
        shape=shape,
        data=_data(tensor, raw),
        max_pictures=max_pictures,
    )


def _data(tensor: Mapping[str, Any], raw: memoryview) -> memoryview | list[Any]:
    size = _parameters(tensor, "The input").get("binary_data_size")
    if size is None:
        if len(raw):
            raise MalformedError(f"{len(raw)} bytes after the JSON belong to no input.")
        data = tensor.get("data")
        if not isinstance(data, list):
            raise MalformedError("The input needs 'data', a list, or 'binary_data_size'.")
        return data
    if "data" in tensor:
        raise MalformedError("The input has both 'data' and 'binary_data_size'; leave one out.")
    if type(size) is not int or size != len(raw):
        raise MalformedError(
            f"The input's 'binary_data_size' is {str(size)[:50]}, but {len(raw)} bytes follow the "
            "JSON."
        )
    return raw


def _outputs(content: Mapping[str, Any], binary: bool) -> dict[str, bool] | None:
    asked = content.get("outputs")
    if asked is None or asked == []:
        return None
    outputs: dict[str, bool] = {}
    for entry in _list(asked, "'outputs'", MAX_OUTPUTS):
        output = _object(entry, "An output")
        name = _text(output, "name", "An output")
        parameters = _parameters(output, "An output")
        if parameters.get("classification"):
            raise MalformedError("The classification extension is not served: see /v1/classify.")
        if name in outputs:
            raise MalformedError(f"The output {name[:100]!r} is asked for twice.")
        outputs[name] = _flag(parameters, "binary_data", default=binary)
    return outputs
