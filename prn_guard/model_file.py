"""What an ONNX file says about itself, read off its bytes without a protobuf library.

onnxruntime tells neither the operator sets nor where weights lie, and it reads what a graph refers
to before anyone could object. This reader walks the wire format once: every byte at most once, no
recursion, nesting bounded; it stops at the first thing that does not fit.

Source: the protobuf encoding (varints, tags, length-delimited records) and the messages of
`onnx.proto`, field numbers as there. Departure: groups, which ONNX never had, are refused. Where a
field occurs several times, any occurrence that would be refused counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, final

from prn_guard.errors import ArtifactError

MAX_DEPTH: Final = 100
"""Messages inside messages; protobuf's own default, so no file that loads elsewhere is deeper."""
MAX_FIELDS: Final = 1_000_000
"""Bounds time and memory: as many empty nodes take 2.9 s and 160 MiB. Two classifiers of ImageNet
have 1,700 and 4,100 fields; large transformers, by estimate, some hundred thousand."""
STANDARD_DOMAINS: Final = ("", "ai.onnx")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_FIELD = (1 << 29) - 1
_LONGEST_VARINT = 10

# Messages that may hold an operator set, a node or a tensor: kind of the child by field number.
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 8: "operator set", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 9: "operator set of a function", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "operator set": {},
    "operator set of a function": {},
    "tensor": {},
}
# Fields that are looked at, and the wire type that ONNX gives them.
_IR_VERSION = 1
_DOMAIN, _VERSION = 1, 2
_OPERATOR, _NODE_DOMAIN, _FUNCTION_DOMAIN = 4, 7, 10
_DATA_TYPE, _FLOATS, _INTEGERS, _RAW, _DOUBLES = 2, 4, 5, 9, 10
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_ATTRIBUTE_FLOAT, _ATTRIBUTE_FLOATS = 2, 7
_FIELDS: Final[dict[str, dict[int, tuple[int, ...]]]] = {
    "model": {_IR_VERSION: (_VARINT,)},
    "node": {_OPERATOR: (_BYTES,), _NODE_DOMAIN: (_BYTES,)},
    "attribute": {
        _ATTRIBUTE_FLOAT: (_FIXED32,),
        _ATTRIBUTE_FLOATS: (_FIXED32, _BYTES),  # one by one from proto2, in one piece from proto3
    },
    "function": {_FUNCTION_DOMAIN: (_BYTES,)},
    "operator set": {_DOMAIN: (_BYTES,), _VERSION: (_VARINT,)},
    "operator set of a function": {_DOMAIN: (_BYTES,)},
    "tensor": {
        _DATA_TYPE: (_VARINT,),
        _FLOATS: (_BYTES,),  # these three are packed in onnx.proto, so no writer has them singly
        _INTEGERS: (_BYTES,),
        _DOUBLES: (_BYTES,),
        _RAW: (_BYTES,),
        _EXTERNAL_DATA: (_BYTES,),
        _DATA_LOCATION: (_VARINT,),
    },
}
# Of two, protobuf would make one tensor with the type of the one and the values of the other.
_SINGLE: Final = {"attribute": {5, 22}, "sparse tensor": {1, 2}}


@final
@dataclass(frozen=True, slots=True)
class Values:
    """Values of one tensor: `content[start:end]`, little-endian, or varints."""

    data_type: int
    """`TensorProto.DataType`, e.g. 1 float32, 10 float16, 11 float64."""
    start: int
    end: int
    varints: bool = False
    """Whether each value is an integer of its own length, as 16-bit floats in `int32_data`."""


@final
@dataclass(slots=True)
class ModelFacts:
    """What a model file says about itself."""

    ir_version: int | None = None
    opsets: dict[str, int] = field(default_factory=dict)
    """Version by domain; the standard domain is always ""."""
    domains: set[str] = field(default_factory=set)
    """Of operator sets, nodes and functions; the standard one is always ""."""
    operators: set[str] = field(default_factory=set)
    """Types of all nodes, those of subgraphs and functions too."""
    functions: int = 0
    external_tensors: int = 0
    """Tensors anywhere in the model whose values lie in another file."""
    values: list[Values] = field(default_factory=list)
    """Of every tensor; nothing where its values are strings or integers of 64 bits."""
    attribute_floats: bytearray = field(default_factory=bytearray)
    """Every float32 that is an attribute of a node, or one of its numbers, little-endian."""


def read_model_facts(content: bytes) -> ModelFacts:
    """Walk the bytes of an ONNX model.

    Args:
        content: a serialised `ModelProto`.

    Returns:
        What is needed to decide whether the model may be loaded.

    Raises:
        ArtifactError: no protobuf, truncated, nested deeper than `MAX_DEPTH`, a field of another
            type than ONNX gives it, or an operator set or tensor stated twice. The message says
            at which byte; the caller knows the file.
    """
    facts = ModelFacts()
    waiting = [("model", 0, len(content), 0)]
    fields = 0
    while waiting:
        kind, start, end, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ArtifactError(f"messages nest deeper than {MAX_DEPTH} at byte {start}")
        children, looked_at = _CHILDREN[kind], _FIELDS.get(kind, {})
        seen: set[int] = set()
        found: list[tuple[int, int, int]] = []
        for number, wire, low, high in _fields(content, start, end):
            fields += 1
            if wire not in ((_BYTES,) if number in children else looked_at.get(number, (wire,))):
                raise ArtifactError(
                    f"field {number} of the {kind} at byte {start} has wire type {wire}"
                )
            if number in children:
                _check_once(kind, number, seen, start)
                waiting.append((children[number], low, high, depth + 1))
            elif number in looked_at:
                found.append((number, low, high))
            if fields > MAX_FIELDS:
                raise ArtifactError(f"there are more than {MAX_FIELDS} fields")
        _note(facts, kind, found, content)
    return facts


def _check_once(kind: str, number: int, seen: set[int], start: int) -> None:
    if number in seen:
        raise ArtifactError(f"field {number} of the {kind} at byte {start} stands twice")
    if number in _SINGLE.get(kind, ()):
        seen.add(number)


def _fields(content: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type and contents: `(value, 0)` of a varint, else where they lie."""
    at = start
    while at < end:
        begin = at
        tag, at = _varint(content, at, end)
        number, wire = tag >> 3, tag & 7
        if not 0 < number <= _MAX_FIELD:
            raise ArtifactError(f"there is no field number {number}, at byte {begin}")
        if wire == _VARINT:
            value, at = _varint(content, at, end)
            yield number, wire, value, 0
            continue
        if wire == _BYTES:
            length, at = _varint(content, at, end)
        elif wire in {_FIXED32, _FIXED64}:
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ArtifactError(f"there is no wire type {wire} in ONNX, at byte {begin}")
        if length > end - at:
            raise ArtifactError(
                f"the field at byte {begin} states {length} bytes where {end - at} are left"
            )
        yield number, wire, at, at + length
        at += length


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """An unsigned integer of at most 64 bits, and where it ends."""
    value = 0
    for index in range(min(end - at, _LONGEST_VARINT)):
        byte = content[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >> 64:
                break
            return value, at + index + 1
    raise ArtifactError(f"the integer at byte {at} does not end or has more than 64 bits")


def _note(facts: ModelFacts, kind: str, found: list[tuple[int, int, int]], content: bytes) -> None:
    """Add what one message of `kind` says, given its fields that are looked at."""
    last = {number: (low, high) for number, low, high in found}
    if kind == "model" and _IR_VERSION in last:
        facts.ir_version = last[_IR_VERSION][0]
    elif kind == "function":
        facts.functions += 1
        facts.domains |= _domains(found, _FUNCTION_DOMAIN, content)
    elif kind == "node":
        facts.domains |= _domains(found, _NODE_DOMAIN, content)
        facts.operators |= _texts(found, _OPERATOR, content)
    elif kind == "operator set of a function":
        facts.domains |= _domains(found, _DOMAIN, content)
    elif kind == "operator set":
        _note_operator_set(facts, found, content)
    elif kind == "tensor":
        # Any location but the default, 0: readers cut the number to 32 bits, each in its way.
        facts.external_tensors += any(
            number == _EXTERNAL_DATA or (number == _DATA_LOCATION and low != 0)
            for number, low, _ in found
        )
        data_type = last.get(_DATA_TYPE, (0, 0))[0] & 0xFFFFFFFF  # as protobuf cuts an int32
        facts.values.extend(
            Values(data_type, low, high, varints=number == _INTEGERS)
            for number, low, high in found
            if number in {_FLOATS, _INTEGERS, _RAW, _DOUBLES}
        )
    elif kind == "attribute":
        for _, low, high in found:
            facts.attribute_floats += content[low : high - (high - low) % 4]


def _note_operator_set(
    facts: ModelFacts, found: list[tuple[int, int, int]], content: bytes
) -> None:
    domains = _domains(found, _DOMAIN, content) or {""}
    for domain in domains:
        if domain in facts.opsets:
            raise ArtifactError(f"the operator set {domain or 'ai.onnx'!r} is stated twice")
        versions = [low for number, low, _ in found if number == _VERSION]
        facts.opsets[domain] = versions[-1] if versions else 0
    facts.domains |= domains


def _domains(found: list[tuple[int, int, int]], wanted: int, content: bytes) -> set[str]:
    names = _texts(found, wanted, content)
    return {"" if name in STANDARD_DOMAINS else name for name in names}


def _texts(found: list[tuple[int, int, int]], wanted: int, content: bytes) -> set[str]:
    return {
        content[low:high].decode(errors="replace")
        for number, low, high in found
        if number == wanted
    }
