"""Looking through an ONNX graph, and making copies of it; no node or initialiser is ever altered.

The exceptions are `without_softmax` and `for_converters`, whose copies only the torch side sees.
"""

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import ModelProto, TensorProto, numpy_helper

from prn_guard.contract import REPEATING

STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx"})
FREE_BATCH: Final = "batch"
_PASSING_ON: Final = frozenset({"Identity", "Flatten", "Reshape", "Squeeze", "Cast"})
_FLOATING: Final = frozenset(
    {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
)


def opset_of(model: ModelProto) -> int | None:
    """Version of the standard operators that the model imports; None when it imports none."""
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS]
    return versions[0] if versions else None


def foreign_operators(model: ModelProto) -> list[str]:
    """Operators used, subgraphs included, that are not the standard's: `domain::name`, sorted."""
    nodes = (message for message in _messages(model) if isinstance(message, onnx.NodeProto))
    return sorted(
        {f"{node.domain}::{node.op_type}" for node in nodes if node.domain not in STANDARD_DOMAINS}
    )


def repeating_operators(model: ModelProto) -> list[str]:
    """Operators used, subgraphs included, that may run for ever, sorted."""
    nodes = (message for message in _messages(model) if isinstance(message, onnx.NodeProto))
    return sorted({node.op_type for node in nodes} & REPEATING)


def external_tensors(model: ModelProto) -> list[str]:
    """Names of the tensors, wherever they stand, whose values lie in another file."""
    return [
        tensor.name or "(unnamed)"
        for tensor in _messages(model)
        if isinstance(tensor, TensorProto)
        and (tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data))
    ]


def broken_constants(model: ModelProto) -> list[str]:
    """Names of the initialisers and Constant nodes' outputs that hold NaN or plus infinity.

    Minus infinity passes, as attention masks hold it.
    """
    found = [tensor.name for tensor in model.graph.initializer if not _is_sound_tensor(tensor)]
    for node in _messages(model):
        if isinstance(node, onnx.NodeProto) and node.op_type == "Constant":
            numbers = [n for given in node.attribute for n in (given.f, *given.floats)]
            tensors = [given.t for given in node.attribute if given.HasField("t")]
            if not (_is_sound(np.array(numbers)) and all(map(_is_sound_tensor, tensors))):
                found.append(node.output[0])
    return found


def with_free_batch(model: ModelProto) -> ModelProto:
    """A copy whose declared shapes have a free first axis where inputs and outputs had it fixed."""
    copy = _copy_without_shapes(model)
    for value in (*declared_inputs(copy), *copy.graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) and dims[0].HasField("dim_value"):
            dims[0].dim_param = FREE_BATCH
    return copy


def with_size(model: ModelProto, axes: tuple[int, int, int]) -> ModelProto:
    """A copy whose input's last three axes are declared to be `axes` long."""
    copy = _copy_without_shapes(model)
    for value in declared_inputs(copy):
        dims = value.type.tensor_type.shape.dim
        for dim, length in zip(list(dims)[1:], axes, strict=True):
            dim.dim_value = length
    return copy


def only_output(model: ModelProto, name: str) -> ModelProto:
    """A copy that answers with the output `name` alone, without the nodes this does not need."""
    copy = _copy_without_shapes(model)
    nodes, needed = [], {name}
    for node in reversed(copy.graph.node):
        if needed.isdisjoint(node.output):
            continue
        nodes.append(node)
        # An optional input that is left out has the empty name.
        needed.update(name for name in _names_used(node) if name)
    _replace(copy.graph.node, list(reversed(nodes)))
    _replace(copy.graph.output, [value for value in copy.graph.output if value.name == name])
    kept = [tensor for tensor in copy.graph.initializer if tensor.name in needed]
    _replace(copy.graph.initializer, kept)
    known = {tensor.name for tensor in kept}
    given = {value.name for value in declared_inputs(model)}
    _replace(copy.graph.input, [v for v in copy.graph.input if v.name in known | given])
    # Unused imports of other domains make one converter warn and the other look for them.
    _replace(copy.opset_import, [e for e in copy.opset_import if e.domain in STANDARD_DOMAINS])
    return copy


def without_softmax(model: ModelProto) -> ModelProto | None:
    """A copy of a model of one output in which the Softmax at its end passes its input on.

    Returns:
        None when the output is not a Softmax, reshaped at most, that nothing else uses.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    uses = [name for node in copy.graph.node for name in _names_used(node)]
    node = final_softmax(copy.graph, copy.graph.output[0].name)
    if node is None or uses.count(node.output[0]) > 1:
        return None
    node.op_type = "Identity"
    del node.attribute[:]
    return copy


def final_softmax(graph: onnx.GraphProto, output: str) -> onnx.NodeProto | None:
    """The Softmax whose values `output` hands on, reshaped or converted at most; None without."""
    producers = {name: node for node in graph.node for name in node.output}
    node = producers.get(output)
    while node is not None and node.op_type in _PASSING_ON:
        node = producers.get(node.input[0])
    return node if node is not None and node.op_type == "Softmax" else None


def for_converters(model: ModelProto) -> ModelProto:
    """A copy of the same meaning, in the words that converters to torch understand.

    Without the Identity nodes that merely give an initialiser another name: the older of torch's
    exporters writes them for weights that are equal, zero biases say, and both converters look for
    a convolution's weights among the initialisers only. Without a `training_mode` that says what
    holds anyway, which onnx2pytorch refuses.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        for attribute in list(node.attribute):
            if attribute.name == "training_mode" and attribute.i == 0:
                node.attribute.remove(attribute)
    _drop_aliases(copy)
    return copy


def _drop_aliases(copy: ModelProto) -> None:
    known = {tensor.name for tensor in copy.graph.initializer}
    answers = {value.name for value in copy.graph.output}
    first: dict[str, str] = {}
    kept = []
    for node in copy.graph.node:
        source = first.get(node.input[0], node.input[0]) if node.op_type == "Identity" else ""
        if source in known and node.output[0] not in answers:
            first[node.output[0]] = source
        else:
            kept.append(node)
    # Subgraphs read their surroundings by name: there the aliases must stay.
    if any(not first.keys().isdisjoint(_names_used(n)[len(n.input) :]) for n in kept):
        return
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = first.get(name, name)
    _replace(copy.graph.node, kept)


def dims_of(value: onnx.ValueInfoProto) -> list[int | None]:
    """Declared lengths of a value's axes; None where one is free (some exporters write -1)."""
    return [
        dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim
    ]


def declared_inputs(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are no initialisers: what a caller must give."""
    known = {tensor.name for tensor in model.graph.initializer}
    known |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in known]


def _copy_without_shapes(model: ModelProto) -> ModelProto:
    # Shapes noted for values inside were inferred from the declarations that change.
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    return copy


def _replace(field: Any, values: list[Any]) -> None:
    kept = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(kept)


def _names_used(node: onnx.NodeProto) -> list[str]:
    """Names a node reads, those that its subgraphs read included."""
    return [
        name
        for message in _messages(node)
        if isinstance(message, onnx.NodeProto)
        for name in message.input
    ] + [
        # A subgraph may answer with a value of the graph around it, untouched by any node.
        value.name
        for message in _messages(node)
        if isinstance(message, onnx.GraphProto)
        for value in message.output
    ]


def _messages(message: Message) -> Iterator[Message]:
    """`message` and all messages inside it; tensors are not looked into."""
    yield message
    if isinstance(message, TensorProto):
        return
    for field, value in message.ListFields():
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            continue
        for part in [value] if isinstance(value, Message) else value:
            yield from _messages(part)


def _is_sound_tensor(tensor: TensorProto) -> bool:
    return tensor.data_type not in _FLOATING or _is_sound(numpy_helper.to_array(tensor))


def _is_sound(array: np.ndarray[Any, Any]) -> bool:
    values = array if array.dtype.kind == "f" else array.astype(np.float32)
    return bool((np.isfinite(values) | (values == -math.inf)).all())
