"""Damage to an artifact folder, drawn at random: bytes, lengths and fields of each file.

Three ways to deliver it: `as is`, where digests show it; `resealed`, every digest computed anew, as
somebody would who can replace the whole artifact; `signed`, resealed as well, but whoever loads it
asks for the exporter's signature.
"""

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, final

import numpy as np
import onnx

from prn_guard.contract import GRAPH_FILE, MANIFEST_FILE, SEAL, SIGNATURE_FILE, seal

Way = Literal["as is", "resealed", "signed"]
Files = dict[str, bytes]
Record = dict[str, Any]

WAYS: Final[tuple[Way, ...]] = ("as is", "resealed", "signed")
NASTY: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308, 5e-324,
    "", "a", "0", "\x00", "../x", "/etc/passwd", "logits", "uint8", "x" * 10_000, "\U0001f600",
    [], [[]], {}, [1, 2, 3], ["a"] * 5, {"a": 1},
)  # fmt: skip
OPERATORS: Final = (
    "Relu", "Neg", "Sqrt", "Log", "Exp", "Softmax", "Transpose", "Identity", "Shape", "Cast",
    "Greater", "Add", "Div", "Mod", "Gather", "Where", "Reshape", "Flatten", "Squeeze", "Expand",
    "Tile", "Concat", "MatMul", "Gemm", "Conv", "MaxPool", "ReduceSum", "ArgMax", "TopK", "Pad",
    "Resize", "NonZero", "Surprise",
)  # fmt: skip


@final
@dataclass(frozen=True)
class Case:
    """One damaged folder."""

    way: Way
    target: str
    """The file that was damaged."""
    kind: str
    files: Files


def draw_case(original: Files, rng: np.random.Generator, way: Way) -> Case:
    """Damage one file of `original` (graph, manifest, signature).

    Args:
        original: contents by file name.
        rng: draws everything.
        way: how it is delivered.
    """
    targets = [GRAPH_FILE, MANIFEST_FILE, *([SIGNATURE_FILE] if way == "signed" else [])]
    target = str(rng.choice(targets))
    fields = {GRAPH_FILE: edit_model, MANIFEST_FILE: edit_manifest}
    kinds = [*BYTE_KINDS, *(["field"] * 3 if target in fields else [])]
    kind = str(rng.choice(kinds))
    change = fields[target] if kind == "field" else BYTE_KINDS[kind]
    files = {**original, target: change(original[target], rng)}
    if way != "as is":
        files[MANIFEST_FILE] = reseal(files)
    return Case(way, target, kind, files)


def reseal(files: Files) -> bytes:
    """The manifest with the digests of the files beside it; as it is where it cannot be parsed."""
    try:
        record = json.loads(files[MANIFEST_FILE])
        record.pop(SEAL, None)
        for entry in record["files"]:
            content = files.get(entry["name"])
            if content is not None:
                entry.update(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    except (ValueError, KeyError, TypeError, AttributeError):
        return files[MANIFEST_FILE]
    return sealed(record)


def sealed(record: Record) -> bytes:
    """A manifest file that states the digest of its own contents."""
    return json.dumps({**record, SEAL: seal(record)}).encode()


# Bytes


def flip_bits(content: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bits."""
    changed = bytearray(content)
    for place in rng.integers(0, len(content), rng.integers(1, 9)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def set_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four bytes become values at the edges of their range, or any."""
    changed = bytearray(content)
    for place in rng.integers(0, len(content), rng.integers(1, 5)):
        changed[place] = int(rng.choice([0x00, 0x7F, 0x80, 0xFF, int(rng.integers(256))]))
    return bytes(changed)


def truncate(content: bytes, rng: np.random.Generator) -> bytes:
    """Keep the beginning."""
    return content[: int(rng.integers(0, len(content)))]


def insert(content: bytes, rng: np.random.Generator) -> bytes:
    """Up to 64 random bytes somewhere."""
    at = int(rng.integers(0, len(content) + 1))
    return content[:at] + rng.bytes(int(rng.integers(1, 65))) + content[at:]


def remove(content: bytes, rng: np.random.Generator) -> bytes:
    """Up to 64 bytes somewhere."""
    at = int(rng.integers(0, len(content)))
    return content[:at] + content[at + int(rng.integers(1, 65)) :]


def repeat(content: bytes, rng: np.random.Generator) -> bytes:
    """A stretch of the file, a second time somewhere else."""
    start, at = (int(place) for place in rng.integers(0, len(content), 2))
    return content[:at] + content[start : start + int(rng.integers(1, 512))] + content[at:]


BYTE_KINDS: Final[dict[str, Callable[[bytes, np.random.Generator], bytes]]] = {
    "flipped bits": flip_bits,
    "edge bytes": set_bytes,
    "truncation": truncate,
    "insertion": insert,
    "removal": remove,
    "repetition": repeat,
}


# Fields


def edit_manifest(content: bytes, rng: np.random.Generator) -> bytes:
    """Replace, remove, add or double one field; the manifest's own seal is kept as it was."""
    record = json.loads(content)
    holder, key = _places(record)[int(rng.integers(len(_places(record))))]
    choice = rng.integers(4)
    if choice == 0:
        del holder[key]
    elif choice == 1 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    elif choice == 1:
        holder[f"{key}_"] = holder[key]
    else:
        holder[key] = copy.deepcopy(NASTY[int(rng.integers(len(NASTY)))])
    return json.dumps(record).encode()


def _places(part: Any) -> list[tuple[Any, Any]]:
    """Every holder and key in a parsed JSON document."""
    keys = list(part) if isinstance(part, dict) else list(range(len(part)))
    places = [(part, key) for key in keys]
    for key in keys:
        if isinstance(part[key], dict | list):
            places.extend(_places(part[key]))
    return places


def edit_model(content: bytes, rng: np.random.Generator) -> bytes:
    """Change one field of the model that protobuf can still hold."""
    model = onnx.load_from_string(content)
    edits = (_edit_node, _edit_tensor, _edit_value, _edit_header, _edit_wiring)
    edits[int(rng.integers(len(edits)))](model, rng)
    written: bytes = model.SerializeToString()
    return written


def _pick(items: Any, rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))]


def _integer(rng: np.random.Generator) -> int:
    return int(_pick((0, 1, -1, 2, 3, 7, 64, 2**31 - 1, -(2**31), 2**40, 2**63 - 1), rng))


def _edit_node(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    node = _pick(model.graph.node, rng)
    choice = rng.integers(3)
    if choice == 0 and node.attribute:
        _pick(node.attribute, rng).i = _integer(rng)
    elif choice == 1:
        node.op_type = str(_pick(OPERATORS, rng))
    else:
        node.attribute.append(
            onnx.helper.make_attribute(str(_pick(("axis", "to", "keepdims", "perm"), rng)), [1, 0])
        )


def _edit_tensor(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    tensor = _pick(model.graph.initializer, rng)
    choice = rng.integers(4)
    if choice == 0:
        tensor.dims.append(_integer(rng))
    elif choice == 1 and tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = _integer(rng)
    elif choice == 2:
        tensor.data_type = int(rng.integers(0, 30))
    else:
        tensor.raw_data = flip_bits(tensor.raw_data, rng)


def _edit_value(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    value = _pick([*model.graph.input, *model.graph.output], rng)
    shape = value.type.tensor_type.shape
    choice = rng.integers(4)
    if choice == 0:
        value.type.tensor_type.elem_type = int(rng.integers(0, 24))
    elif choice == 1:
        _pick(shape.dim, rng).dim_value = _integer(rng)
    elif choice == 2:
        shape.dim.add().dim_param = "M"
    else:
        value.name = str(_pick(("", "x", "image", "logits", "score"), rng))


def _edit_header(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    choice = rng.integers(4)
    if choice == 0:
        model.ir_version = _integer(rng)
    elif choice == 1:
        model.opset_import[0].version = _integer(rng)
    elif choice == 2:
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    else:
        model.metadata_props.add(key="ort_config", value='{"session_options": {}}')


def _edit_wiring(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    nodes = model.graph.node
    node = _pick(nodes, rng)
    names = [name for one in nodes for name in (*one.input, *one.output)]
    choice = rng.integers(4)
    if choice == 0:
        nodes.remove(node)
    elif choice == 1:
        nodes.append(copy.deepcopy(node))
    elif choice == 2:
        node.input[int(rng.integers(len(node.input)))] = str(_pick(names, rng))
    else:
        node.output[0] = str(_pick(names, rng))
