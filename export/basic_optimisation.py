"""A graph as onnxruntime partitions it: after the optimisations that no provider takes part in.

A session on the CPU carries them out (constants and static shapes folded, reshapes and transposes
simplified, local functions inlined) and writes what it got. Three things have to be kept from it:

* Half precision. The CPU has few such kernels, so it would decompose operators and add casts that
  a GPU never sees. It is therefore given the graph in float32, with the casts between the two held
  open by an operator that stands in for them, and the types are put back by name.
* HardSwish, the one operator with a kernel for CUDA and none for the CPU, which would decompose it:
  an operator stands in for it, too.
* Weights in other files. They are never read; each becomes an input of the same type.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from prn_guard.errors import ArtifactError
from prn_guard.execution import runtime_errors
from prn_guard.session import SAFE_ENTRIES

_FLOAT = onnx.TensorProto.FLOAT
_HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_STAND_INS = ("Asinh", "Acosh", "Atanh", "Sinh", "Cosh")
"""Elementwise, float32 on the CPU, and part of no pattern that onnxruntime looks for."""
_SMALL = 1024
_LOG_FATAL_ONLY = 4


@dataclass(frozen=True)
class BasicGraph:
    """The optimised graph, and what it does not say itself.

    Attributes:
        model: nodes and types; values of larger weights are left out.
        known: element types by name, where half precision had to be replaced by float32; empty
            where `model` has the types of all its tensors itself.
    """

    model: onnx.ModelProto
    known: dict[str, int]


def parse(graph: bytes) -> onnx.ModelProto:
    """Parse an ONNX file's bytes; weights in other files are not looked for.

    Raises:
        ArtifactError: the bytes are no ONNX model, or one without nodes or operator sets.
    """
    try:
        model = onnx.load_model_from_string(graph)
    except (DecodeError, ValueError) as error:
        raise ArtifactError(
            f"These {len(graph):,} bytes are no ONNX model: {error}. Name an .onnx file, or export "
            "it anew."
        ) from error
    if not model.graph.node or not model.opset_import:
        raise ArtifactError(
            f"This ONNX model has {len(model.graph.node)} nodes and {len(model.opset_import)} "
            "operator sets; expected at least one of each. Export it anew."
        )
    return model


def basic_graph(model: onnx.ModelProto) -> BasicGraph:
    """Optimise a copy of `model` as onnxruntime does before it looks for kernels.

    A model that the CPU cannot load (operators of unknown domains, or without a CPU kernel) comes
    back with its functions inlined and its constants folded, but otherwise as it is.

    Raises:
        ArtifactError: names in it are no text, its functions cannot be inlined, or its weights are
            not of the shapes that they state.
    """
    model = _inlined(model)
    _refuse_unreadable_names(model)
    constants = _externals_as_inputs(model.graph)
    known = _types_by_name(model) if _has_halves(model) else {}
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    stand_ins = _hold_open(twin, known)
    if known:
        _as_float32(twin)
    optimised = _through_cpu_session(twin)
    if optimised is None:
        optimised = model
        _fold(model.graph, constants)
        known = {}
    # onnxruntime leaves out the types of some tensors that it made.
    optimised = _inferred(optimised)
    for graph in graphs(optimised.graph):
        for node in graph.node:
            node.op_type = stand_ins.get(node.op_type, node.op_type)
    return BasicGraph(optimised, known)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and every graph inside its nodes."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The branches or the body of a control-flow node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnx import inliner

    if model.functions:
        try:
            return inliner.inline_local_functions(model)
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(
                f"The functions of this ONNX model cannot be inlined: {error}. Export it anew."
            ) from error
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _refuse_unreadable_names(model: onnx.ModelProto) -> None:
    """Protobuf hands out a name that is no UTF-8 as bytes, which nothing after this expects."""
    names: list[object] = [opset.domain for opset in model.opset_import]
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            names.append(value.name)
        for node in graph.node:
            names += [node.name, node.op_type, node.domain, *node.input, *node.output]
            names += [attribute.name for attribute in node.attribute]
    if unreadable := [name for name in names if not isinstance(name, str)]:
        raise ArtifactError(
            f"This ONNX model holds names that are no text, such as {unreadable[0]!r}. Export it "
            "anew."
        )


def _externals_as_inputs(top: onnx.GraphProto) -> set[str]:
    names: set[str] = set()
    for graph in graphs(top):
        kept = []
        for tensor in graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                kept.append(tensor)
                continue
            names.add(tensor.name)
            if all(value.name != tensor.name for value in top.input):
                top.input.append(
                    onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
        if len(kept) < len(graph.initializer):
            left = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
            del graph.initializer[:]
            graph.initializer.extend(left)
    return names


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with the types of all tensors, as far as they can be inferred."""
    try:
        return onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return model


def _has_halves(model: onnx.ModelProto) -> bool:
    for graph in graphs(model.graph):
        for node in graph.node:
            for attribute in node.attribute:
                named = attribute.i if attribute.name in {"to", "dtype"} else 0
                if {named, attribute.t.data_type} & set(_HALVES):
                    return True
        values = {value.type.tensor_type.elem_type for value in graph.input}
        if (values | {tensor.data_type for tensor in graph.initializer}) & set(_HALVES):
            return True
    return False


def _types_by_name(model: onnx.ModelProto) -> dict[str, int]:
    found: dict[str, int] = {}
    for graph in graphs(_inferred(model).graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            found[value.name] = value.type.tensor_type.elem_type
        for tensor in graph.initializer:
            found[tensor.name] = tensor.data_type
    return found


def _hold_open(model: onnx.ModelProto, types: dict[str, int]) -> dict[str, str]:
    """Put stand-ins in place of what the CPU session would undo; what each stands for."""
    used = {node.op_type for graph in graphs(model.graph) for node in graph.node}
    free = (name for name in _STAND_INS if name not in used)
    stand_ins = dict(zip(("HardSwish", "Cast"), free, strict=False))
    for graph in graphs(model.graph):
        for node in graph.node:
            if node.op_type == "HardSwish" or (node.op_type == "Cast" and _of_floats(node, types)):
                node.op_type = stand_ins.get(node.op_type, node.op_type)
                if node.op_type in _STAND_INS:
                    del node.attribute[:]
    return {stand_in: op for op, stand_in in stand_ins.items()}


def _of_floats(node: onnx.NodeProto, types: dict[str, int]) -> bool:
    """Whether a Cast has half precision on one side, and that or float32 on the other."""
    number = next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)
    sides = {number, types.get(node.input[0]) if node.input else None}
    return bool(sides & set(_HALVES)) and sides <= {*_HALVES, _FLOAT}


def _as_float32(model: onnx.ModelProto) -> None:
    """Turn half precision into float32 in place."""
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in _HALVES:
                value.type.tensor_type.elem_type = _FLOAT
        for tensor in graph.initializer:
            _widen(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name in {"to", "dtype"} and attribute.i in _HALVES:
                    attribute.i = _FLOAT
                if attribute.HasField("t"):
                    _widen(attribute.t)


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type not in _HALVES:
        return
    try:
        values = numpy_helper.to_array(tensor).astype("float32")
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            f"The tensor {tensor.name!r} of this ONNX model is damaged: {error}. Export it anew."
        ) from error
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _through_cpu_session(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Apart from `load_graph`, for this session is not run: it writes a model and is dropped."""
    import onnxruntime

    refusals: tuple[type[Exception], ...] = (*runtime_errors(), OSError)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = 1
    prefix = "session.optimized_model_external_initializers_"
    entries = {
        **SAFE_ENTRIES,
        "session.disable_prepacking": "1",
        f"{prefix}file_name": "weights",
        f"{prefix}min_size_in_bytes": str(_SMALL),
    }
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(place)
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(),
                sess_options=options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,
            )
            return onnx.load(place, load_external_data=False)
        except refusals:
            return None


def _fold(graph: onnx.GraphProto, constants: set[str]) -> None:
    """Remove the nodes that compute on constants only; what they gave joins `constants`."""
    constants.update(tensor.name for tensor in graph.initializer)
    left = []
    for node in graph.node:
        random = node.op_type.startswith(("Random", "Bernoulli", "Multinomial"))
        if all(not name or name in constants for name in node.input) and not (
            random or any(subgraphs(node))
        ):
            constants.update(node.output)
        else:
            for inner in subgraphs(node):
                _fold(inner, constants)
            left.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(left)
