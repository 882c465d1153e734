"""The protocol's messages as classes, and a check before anything is parsed.

The classes are made from `open_inference.binpb`, which protoc wrote, in a descriptor pool of their
own. Generated modules would put them into the pool that all of a process shares, where they clash
with those of every other speaker of the protocol, `tritonclient` among them; and they refuse
versions of protobuf older than the one that generated them.
"""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from prn_guard.serve.errors import MalformedError

SERVICE: Final = "inference.GRPCInferenceService"
MAX_OVERHEAD: Final = 64 * 1024
"""Bytes of a request that are no tensor data; twenty times what naming every output takes."""

_SCHEMA: Final = "open_inference.binpb"
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_MOST_VARINT: Final = 10
# Paths of field numbers in ModelInferRequest.
_DATA: Final = frozenset({(7,), (5, 5, 4), (5, 5, 6)})
"""raw_input_contents, and an input's uint_contents and fp32_contents: what a model here takes."""
_AROUND_DATA: Final = frozenset({(5,), (5, 5)})


def _load() -> Mapping[str, Any]:
    content = files("prn_guard.serve").joinpath(_SCHEMA).read_bytes()
    pool = descriptor_pool.DescriptorPool()
    (schema,) = descriptor_pb2.FileDescriptorSet.FromString(content).file
    pool.Add(schema)
    return {
        kind.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"{schema.package}.{kind.name}")
        )
        for kind in schema.message_type
    }


MESSAGES: Final = _load()
"""Every message's class by its name."""


def parse(name: str, content: bytes) -> Any:
    """Parse one request.

    Args:
        name: of the message.
        content: its bytes; the caller bounds their number.

    Raises:
        MalformedError: no such message.
    """
    if name == "ModelInferRequest":
        _spare(content, 0, len(content), (), MAX_OVERHEAD)
    try:
        return MESSAGES[name].FromString(content)
    except message.DecodeError as error:
        raise MalformedError(f"The request is no {name} of the protocol.") from error


def _spare(content: bytes, start: int, end: int, path: tuple[int, ...], spare: int) -> int:
    """Walk over one message; how many bytes that are no data may still come.

    Two bytes of an empty submessage become ninety in memory: a request of 32 MB that holds nothing
    else takes 1.4 GB and three seconds to parse.

    Raises:
        MalformedError: more of them, or no message.
    """
    at = start
    while at < end:
        began = at
        tag, at = _varint(content, at, end)
        kind, place = tag & 7, (*path, tag >> 3)
        if kind == _VARINT:
            _, at = _varint(content, at, end)
        elif kind == _LENGTH:
            length, at = _varint(content, at, end)
            if length > end - at:
                raise _cut_off()
            if place in _AROUND_DATA:
                spare = _spare(content, at, at + length, place, spare)
            if place in _AROUND_DATA or place in _DATA:
                began += length
            at += length
        elif kind in {_EIGHT_BYTES, _FOUR_BYTES}:
            at += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise MalformedError("The request is no message of the protocol: it holds groups.")
        spare -= at - began
        if spare < 0:
            raise MalformedError(
                f"The request holds more than {MAX_OVERHEAD} bytes besides its data, which stands "
                "in raw_input_contents, or in uint_contents or fp32_contents of its input."
            )
    if at > end:
        raise _cut_off()
    return spare


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = 0
    for place, byte in enumerate(content[at : min(at + _MOST_VARINT, end)]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise _cut_off()


def _cut_off() -> MalformedError:
    return MalformedError("The request is no message of the protocol: it ends too soon.")
