"""Is a graph wholly on the GPU? By the table of CUDA kernels, or by asking a session on a GPU.

Sources of the rules: onnxruntime's `KernelRegistry` (versions and types of kernels) and the CUDA
provider's `GetCapability` (attributes that a kernel does not support).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import onnx

from export.basic_optimisation import basic_graph, parse, subgraphs
from export.cuda_kernels import Kernel, kernel_table
from export.shape_arithmetic import left_to_the_cpu, small_constants
from export.tensor_types import adopt_halves, bound_types, parameters_text, types_of
from prn_guard.artifact import read_artifact
from prn_guard.contract import MAX_GRAPH_BYTES, Placement
from prn_guard.errors import ArtifactError, InvalidArgumentError
from prn_guard.plain_files import read_bounded
from prn_guard.session import Device, load_graph

_RECORD_ASSIGNMENT: Final = {"session.record_ep_graph_assignment_info": "1"}
_SHAPES = "shape arithmetic, which onnxruntime leaves to the CPU"


@dataclass(frozen=True)
class Fallback:
    """One node that the CPU would run.

    Attributes:
        node: its name, after those of the nodes that it lies in; its first output where it has no
            name.
        op: the operator.
        domain: the operator's domain, empty for ONNX's own.
        since_version: the version of the operator that the graph's operator set stands for; 0 when
            ONNX knows no such operator.
        types: what its type parameters are bound to, for people.
        reason: why it falls back, for people.
    """

    node: str
    op: str
    domain: str
    since_version: int
    types: str
    reason: str


def judge(path: Path, device: Literal["table", "cuda"]) -> tuple[Placement, tuple[Fallback, ...]]:
    """Judge the graph of an artifact folder, or an ONNX file, by the table or on a GPU.

    Args:
        path: what `python -m export guard` wrote, or an ONNX file.
        device: "table", or "cuda" for a session on the first visible NVIDIA GPU.

    Raises:
        InvalidArgumentError: `device` is neither.
        ArtifactError: `path` cannot be read, the artifact was changed, or it is no ONNX model.
        DeviceError: "cuda" cannot be had.
    """
    if device not in {"table", "cuda"}:
        raise InvalidArgumentError(f"device is {device!r}; expected 'table' or 'cuda'.")
    graph = read_artifact(path)[1] if path.is_dir() else _read_graph(path)
    try:
        return table_placement(graph) if device == "table" else session_placement(graph)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _read_graph(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_GRAPH_BYTES)
    except ArtifactError as error:
        raise ArtifactError(
            f"{path} cannot be read: {str(error).rstrip('.')}. Name an artifact folder or an .onnx "
            "file of at most 2 GiB."
        ) from error


def table_placement(graph: bytes) -> tuple[Placement, tuple[Fallback, ...]]:
    """Judge a graph by the table of CUDA kernels; no GPU is needed.

    Args:
        graph: bytes of an ONNX file. Weights in other files are not read.

    Returns:
        How many nodes onnxruntime would place, after its first optimisations, and those that it
        would place on the CPU.

    Raises:
        ArtifactError: the bytes are no ONNX model.
    """
    basic = basic_graph(parse(graph))
    opsets = _opsets(basic.model)
    count, fallbacks = _judge(_Scope(basic.model.graph, opsets, basic.known, {}, set(), ""))
    return _placement("kernel table", kernel_table().onnxruntime, count, fallbacks), fallbacks


def session_placement(graph: bytes) -> tuple[Placement, tuple[Fallback, ...]]:
    """Ask a session on the GPU where it places the nodes of a graph.

    Args:
        graph: bytes of an ONNX file with all its weights inside.

    Raises:
        ArtifactError: the bytes are no ONNX model, or onnxruntime does not load it.
        DeviceError: there is no GPU, or CUDA does not start.
    """
    parse(graph)
    return _ask(graph, "cuda")


@dataclass(frozen=True)
class _Scope:
    """A graph to judge, and what it sees of the graphs around it."""

    graph: onnx.GraphProto
    opsets: Mapping[str, int]
    known: Mapping[str, int]
    types: Mapping[str, str]
    small: set[str]
    path: str


def _judge(scope: _Scope) -> tuple[int, tuple[Fallback, ...]]:
    """Number of nodes and those that fall back, of a graph and of those inside its nodes."""
    graph = scope.graph
    types = types_of(graph, scope.types, scope.known)
    small = scope.small | small_constants(graph)
    verdicts = [_verdict(node, scope, types) for node in graph.node]
    with_kernel = {index for index, verdict in enumerate(verdicts) if not verdict.reason}
    moved = left_to_the_cpu(graph, with_kernel, types, small)
    count, found = len(graph.node), []
    for index, (node, verdict) in enumerate(zip(graph.node, verdicts, strict=True)):
        if reason := _SHAPES if index in moved else verdict.reason:
            found.append(
                Fallback(
                    verdict.node, node.op_type, node.domain, verdict.since, verdict.types, reason
                )
            )
        for inner in subgraphs(node):
            below, deeper = _judge(
                _Scope(inner, scope.opsets, scope.known, types, small, f"{verdict.node}/")
            )
            count += below
            found.extend(deeper)
    return count, tuple(found)


@dataclass(frozen=True)
class _Verdict:
    node: str
    since: int
    types: str
    reason: str


def _verdict(node: onnx.NodeProto, scope: _Scope, types: dict[str, str]) -> _Verdict:
    label = scope.path + (node.name or next((name for name in node.output if name), node.op_type))
    schema = _schema(node, scope.opsets)
    if schema is None:
        place = f"domain {node.domain!r}" if node.domain else "ONNX"
        return _Verdict(label, 0, "", f"the table knows no such operator of {place}")
    adopt_halves(node, schema, types, scope.known)
    bound = bound_types(node, schema, types)
    reason = _why_not(node, schema.since_version, bound)
    return _Verdict(label, schema.since_version, parameters_text(schema, bound), reason)


def _why_not(node: onnx.NodeProto, since: int, bound: Mapping[str, set[str]]) -> str:
    """Why no CUDA kernel takes this node; empty when one does."""
    kernels = kernel_table().kernels.get(node.op_type, ())
    if not kernels:
        return "no CUDA kernel for this operator"
    serving = [kernel for kernel in kernels if kernel.serves(since)]
    if not serving:
        newest = max(kernel.last or kernel.first for kernel in kernels)
        return f"CUDA kernels up to version {newest} of this operator, not for {since}"
    if not any(_admits(kernel, bound) for kernel in serving):
        return f"CUDA kernels only for {_offers(serving, bound)}"
    return _attribute_problem(node)


def _admits(kernel: Kernel, bound: Mapping[str, set[str]]) -> bool:
    return all(bound.get(name, set()) <= allowed for name, allowed in kernel.types.items())


def _offers(serving: Sequence[Kernel], bound: Mapping[str, set[str]]) -> str:
    """The types that the kernels take, for the parameters that are at fault."""
    names = sorted({name for kernel in serving for name in kernel.types if name in bound})
    taken = {
        name: frozenset[str]().union(*(kernel.types.get(name, ()) for kernel in serving))
        for name in names
    }
    at_fault = [name for name in names if not bound[name] <= taken[name]]
    # Each type is taken by some kernel, but no kernel takes them together.
    return ", ".join(f"{name} in {' '.join(sorted(taken[name]))}" for name in at_fault or names)


def _attribute_problem(node: onnx.NodeProto) -> str:
    values = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type in {"ArgMax", "ArgMin"} and "select_last_index" in values:
        return "select_last_index is not for CUDA" if values["select_last_index"].i else ""
    if node.op_type == "ConvTranspose":
        pads = list(values["pads"].ints) if "pads" in values else []
        same = "auto_pad" in values and values["auto_pad"].s.startswith(b"SAME")
        if same or pads[: len(pads) // 2] != pads[len(pads) // 2 :]:
            return "padding that differs between the two sides is not for CUDA"
    return ""


def _ask(graph: bytes, device: Device) -> tuple[Placement, tuple[Fallback, ...]]:
    """What a session on `device` says; nodes outside its first provider fall back."""
    import onnxruntime

    session = load_graph(graph, device, "This ONNX model", entries=_RECORD_ASSIGNMENT)
    wanted = session.get_providers()[0]
    opsets = _opsets(parse(graph))
    nodes = [
        (part.ep_name, node)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    fallbacks = tuple(
        Fallback(
            node.name or node.op_type,
            node.op_type,
            node.domain,
            schema.since_version if (schema := _schema(node, opsets)) else 0,
            "",
            f"the session placed it on {provider}",
        )
        for provider, node in nodes
        if provider != wanted
    )
    return _placement("session", onnxruntime.__version__, len(nodes), fallbacks), fallbacks


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    return {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}


def _schema(node: Any, opsets: Mapping[str, int]) -> onnx.defs.OpSchema | None:
    """ONNX's own schema of a node's operator; `node` has `op_type` and `domain`."""
    if node.domain not in {"", "ai.onnx"}:
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opsets.get("", 1), "")
    except onnx.defs.SchemaError:
        return None


def _placement(basis: Any, version: str, count: int, fallbacks: Sequence[Fallback]) -> Placement:
    if not count:
        raise ArtifactError(
            "This ONNX model computes nothing: all its nodes fold into constants. Export it anew."
        )
    on_cpu = tuple(fallback.node for fallback in fallbacks)
    return Placement(basis=basis, onnxruntime=version, nodes=count, on_cpu=on_cpu)
