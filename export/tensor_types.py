"""Element types of a graph's tensors, and of an operator's type parameters."""

from collections.abc import Iterator, Mapping

import onnx
from onnx.defs import OpSchema

_HALVES = ("float16", "bfloat16")


def types_of(
    graph: onnx.GraphProto, outer: Mapping[str, str], known: Mapping[str, int]
) -> dict[str, str]:
    """Element type of each tensor that is visible in `graph`, by name.

    Args:
        graph: with the types of its tensors, as onnxruntime writes them.
        outer: types of the tensors around it.
        known: where half precision was replaced by float32, the original types by name. A tensor
            that has lost its name then takes the type of those that share a parameter with it.
    """
    types = dict(outer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = _text(value.type)
    for tensor in graph.initializer:
        types[tensor.name] = _element(tensor.data_type)
    for name in types.keys() & known.keys():
        if types[name] == "float" and known[name] != onnx.TensorProto.UNDEFINED:
            types[name] = _element(known[name])
    return types


def adopt_halves(
    node: onnx.NodeProto, schema: OpSchema, types: dict[str, str], known: Mapping[str, int]
) -> None:
    """Give nameless float tensors of `node` the half precision of what shares their parameter."""
    by_parameter: dict[str, list[str]] = {}
    for formal, name in _arguments(node, schema):
        by_parameter.setdefault(formal.type_str, []).append(name)
    for names in by_parameter.values():
        halves = {types.get(name, "") for name in names} & set(_HALVES)
        for name in names:
            if len(halves) == 1 and types.get(name) == "float" and name not in known:
                types[name] = next(iter(halves))


def bound_types(
    node: onnx.NodeProto, schema: OpSchema, types: Mapping[str, str]
) -> dict[str, set[str]]:
    """Types found for each type parameter of the operator, and for each input and output by name.

    onnxruntime lets a kernel constrain either. Tensors of unknown type are left out.
    """
    bound: dict[str, set[str]] = {}
    for formal, name in _arguments(node, schema):
        if found := types.get(name):
            for key in {formal.type_str, formal.name}:
                bound.setdefault(key, set()).add(found)
    return bound


def parameters_text(schema: OpSchema, bound: Mapping[str, set[str]]) -> str:
    """`T=float, T1=int64`, for people."""
    names = [constraint.type_param_str for constraint in schema.type_constraints]
    return ", ".join(f"{name}={'/'.join(sorted(bound[name]))}" for name in names if name in bound)


def _arguments(
    node: onnx.NodeProto, schema: OpSchema
) -> Iterator[tuple[OpSchema.FormalParameter, str]]:
    for formals, names in ((schema.inputs, node.input), (schema.outputs, node.output)):
        for index, name in enumerate(names):
            if name and formals:
                # The last one may be variadic and stands for all that follow.
                yield formals[min(index, len(formals) - 1)], name


def _text(kind: onnx.TypeProto) -> str:
    if kind.HasField("sequence_type"):
        return f"seq(tensor({_text(kind.sequence_type.elem_type)}))"
    if kind.HasField("optional_type"):
        return f"optional({_text(kind.optional_type.elem_type)})"
    return _element(kind.tensor_type.elem_type)


def _element(number: int) -> str:
    """What onnxruntime calls an element type; empty when it is unknown."""
    try:
        name = onnx.TensorProto.DataType.Name(number)
    except ValueError:
        return ""
    return "" if number == onnx.TensorProto.UNDEFINED else name.lower()
