"""Put the guard in front of a classifier's own ONNX graph, whose nodes and weights stay untouched.

Source: none; the way is `onnx.compose`. The guard is exported for opset 18, of operators that mean
the same from 13 to 25, and takes the classifier's opset. Where the guarded graph must keep the name
of the classifier's input (so that clients need no change), that name can no longer stand for what
the classifier reads: these references, and nothing else of the classifier, name the chosen picture
instead. `classifier_digest` restores them, so that the digest is that of the original.
"""

import copy
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import onnx
from onnx import compose, defs, helper

from export.classifier_graph import ClassifierGraph
from export.exporter import forget_in_nodes, forget_in_tensor, graph_errors
from export.guard_front import CHOSEN, THRESHOLD
from prn_guard.contract import (
    FLAGGED,
    IMAGE,
    LABEL,
    LOGITS,
    RECTIFIED,
    SCORE,
    InputTensor,
    OutputNames,
)
from prn_guard.errors import TargetError

PREFIX: Final = "guard."
LOWEST_OPSET: Final = 13
_REMEDY: Final = "Export the classifier anew, with another exporter or at another opset."


@final
@dataclass(frozen=True, kw_only=True)
class GuardedGraph:
    """The guarded classifier as one graph.

    Args:
        model: the graph.
        tensor: its input.
        names: of the guard's answers.
        digest: of the classifier inside, equal to that of the classifier alone.
    """

    model: onnx.ModelProto
    tensor: InputTensor
    names: OutputNames
    digest: str

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs, in order."""
        return tuple(output.name for output in self.model.graph.output)


def splice(
    front: onnx.ModelProto,
    classifier: ClassifierGraph,
    tensor: InputTensor,
    *,
    keep_outputs: bool,
) -> GuardedGraph:
    """Join the guard's front and a classifier.

    Args:
        front: as `front_model` exports it.
        classifier: what it feeds.
        tensor: the front's input as clients shall see it.
        keep_outputs: all of the classifier's outputs come first, under their own names, and then
            the logits, if the classifier answers with probabilities; otherwise only the logits are
            kept, under the name `logits`.

    Raises:
        TargetError: the classifier is guarded already, too old for the guard's operators, or what
            onnx cannot join or check.
    """
    merged = _merge(front, classifier)
    graph = merged.graph
    taken = set(_names(classifier.model.graph)) - {classifier.input_name}
    input_name = _free(tensor.name, taken)
    taken.add(input_name)
    logits = _logits(graph, classifier, taken, rename=not keep_outputs)
    kept = classifier.outputs if keep_outputs else ()
    outputs = tuple(dict.fromkeys((*kept, logits)))
    taken.add(logits)
    label = _append_label(graph, logits, _free(LABEL, taken))
    score, flagged = _free(SCORE, taken), _free(FLAGGED, taken)
    renamed = {
        f"{PREFIX}{IMAGE}": input_name,
        f"{PREFIX}{SCORE}": score,
        f"{PREFIX}{FLAGGED}": flagged,
    }
    rectified = None
    if any(output.name == RECTIFIED for output in front.graph.output):
        rectified = renamed[f"{PREFIX}{RECTIFIED}"] = _free(RECTIFIED, taken)
    _rename(graph, renamed)
    names = OutputNames(
        logits=logits, label=label, score=score, flagged=flagged, rectified=rectified
    )
    _order_outputs(graph, (*outputs, label, score, flagged, *names.on_request))
    with graph_errors("The guarded graph is no valid ONNX", _REMEDY):
        onnx.checker.check_model(merged, full_check=True)
    return GuardedGraph(
        model=merged,
        tensor=tensor.model_copy(update={"name": input_name}),
        names=names,
        digest=_common_digest(classifier, graph),
    )


def _common_digest(classifier: ClassifierGraph, guarded: onnx.GraphProto) -> str:
    """Digest of the classifier, which must be the same inside the guarded graph as outside."""
    outside = classifier_digest(classifier.model.graph, classifier.input_name)
    inside = classifier_digest(guarded, classifier.input_name)
    if inside != outside:
        raise TargetError(
            f"The classifier inside the guarded graph has the digest {inside[:12]}..., the one "
            f"outside {outside[:12]}...; splicing altered it. Nothing was exported."
        )
    return outside


def classifier_digest(graph: onnx.GraphProto, input_name: str) -> str:
    """SHA-256 over the nodes and initialisers of the classifier in `graph`.

    Doc strings and metadata are left out, since they tell of the exporting machine and not of the
    function. So the digest can be computed from the user's file, whatever it notes.

    Args:
        graph: a classifier alone, or a guarded graph, of which the guard's part is left out.
        input_name: what the classifier called its picture; stands for the chosen picture again.
    """
    digest = hashlib.sha256()
    restored = {f"{PREFIX}{CHOSEN}": input_name}
    for node in graph.node:
        if not node.name.startswith(PREFIX):
            original = copy.deepcopy(node)
            _redirect([original], restored)
            forget_in_nodes([original])
            digest.update(original.SerializeToString(deterministic=True))
    for kind in (graph.initializer, graph.sparse_initializer):
        for initialiser in kind:
            if not _initialiser_name(initialiser).startswith(PREFIX):
                plain = copy.deepcopy(initialiser)
                forget_in_tensor(plain)
                digest.update(plain.SerializeToString(deterministic=True))
    return digest.hexdigest()


def set_threshold(model: onnx.ModelProto, threshold: float) -> None:
    """Give a guarded graph another threshold."""
    name = f"{PREFIX}{THRESHOLD}"
    (found,) = (item for item in model.graph.initializer if item.name == name)
    found.CopyFrom(onnx.numpy_helper.from_array(np.array(threshold, dtype=np.float32), name))


def _merge(front: onnx.ModelProto, classifier: ClassifierGraph) -> onnx.ModelProto:
    guarded_already = [name for name in _names(classifier.model.graph) if name.startswith(PREFIX)]
    if guarded_already:
        raise TargetError(
            f"The classifier holds names such as {guarded_already[0]!r}: it is guarded already. "
            "Wrap the original file."
        )
    stamped = _stamp(front, classifier.opset)
    plain = copy.deepcopy(classifier.model)
    plain.ir_version = stamped.ir_version = max(plain.ir_version, stamped.ir_version)
    # An entry without a use, and not in both, would keep the two from being joined.
    keep_used_domains(plain)
    with graph_errors("The classifier cannot be joined with the guard", _REMEDY):
        merged = compose.merge_models(
            compose.add_prefix(stamped, PREFIX),
            plain,
            io_map=[(f"{PREFIX}{CHOSEN}", classifier.input_name)],
            name="guarded",
            doc_string="",
            producer_name="prn-guard",
        )
    # It states the operator sets of both, though they are the same.
    del merged.opset_import[:]
    merged.opset_import.extend(plain.opset_import)
    return merged


def keep_used_domains(model: onnx.ModelProto) -> None:
    """Remove opset imports of domains that no node belongs to."""
    used = {node.domain for node in model.graph.node} | {""}
    entries = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(entries)


def _stamp(front: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The front under another opset, in which all its operators must have the same form.

    Raises:
        TargetError: they have not.
    """
    if opset < LOWEST_OPSET:
        raise TargetError(
            f"The classifier has opset {opset}; the guard needs {LOWEST_OPSET} or above. Convert "
            "it with onnx.version_converter, or export it anew."
        )
    stamped = copy.deepcopy(front)
    del stamped.opset_import[:]
    stamped.opset_import.append(helper.make_opsetid("", opset))
    for node in stamped.graph.node:
        known = defs.get_schema(node.op_type, opset, "").attributes
        for attribute in [item for item in node.attribute if item.name not in known]:
            # Opset 13 has no `allowzero`; it matters only for shapes with a zero, which none has.
            if (node.op_type, attribute.name) != ("Reshape", "allowzero"):
                raise TargetError(
                    f"The guard's {node.op_type} has no form at opset {opset}. Convert the "
                    "classifier to opset 18 with onnx.version_converter."
                )
            node.attribute.remove(attribute)
    return stamped


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name of a tensor or node in `graph` and the graphs inside it."""
    for value in (*graph.input, *graph.output):
        yield value.name
    for initialiser in (*graph.initializer, *graph.sparse_initializer):
        yield _initialiser_name(initialiser)
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for inner in _graphs_of(node):
            yield from _names(inner)


def _initialiser_name(initialiser: "onnx.TensorProto | onnx.SparseTensorProto") -> str:
    dense = initialiser.values if hasattr(initialiser, "values") else initialiser
    return str(dense.name)


def _graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _redirect(nodes: Iterable[onnx.NodeProto], names: dict[str, str]) -> None:
    """Let nodes, and those of graphs inside them, read and write other tensors."""
    for node in nodes:
        for ends in (node.input, node.output):
            for index, name in enumerate(ends):
                ends[index] = names.get(name, name)
        for graph in _graphs_of(node):
            _redirect(graph.node, names)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    _redirect(graph.node, names)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)


def _free(name: str, taken: set[str]) -> str:
    """`name`, or where the classifier uses it for something else, `guard_` before it."""
    while name in taken:
        name = f"guard_{name}"
    return name


def _logits(
    graph: onnx.GraphProto, classifier: ClassifierGraph, taken: set[str], *, rename: bool
) -> str:
    """Name of the output with the logits; one is added if the classifier has none of that name.

    Args:
        graph: to which it may be added.
        classifier: inside `graph`.
        taken: names that are in use.
        rename: call it `logits` if that name is free.
    """
    own = classifier.logits_name
    if classifier.before_softmax is not None:
        name, source, operator = _free(LOGITS, taken), classifier.before_softmax, "Flatten"
    elif rename and LOGITS not in taken:
        name, source, operator = LOGITS, own, "Identity"
    else:
        return own
    graph.node.append(helper.make_node(operator, [source], [name], name=f"{PREFIX}{LOGITS}"))
    output = copy.deepcopy(next(value for value in graph.output if value.name == own))
    output.name = name
    graph.output.append(output)
    return name


def _append_label(graph: onnx.GraphProto, logits: str, label: str) -> str:
    graph.node.append(
        helper.make_node("ArgMax", [logits], [label], name=f"{PREFIX}{LABEL}", axis=1, keepdims=0)
    )
    graph.output.append(helper.make_tensor_value_info(label, onnx.TensorProto.INT64, ["batch"]))
    return label


def _order_outputs(graph: onnx.GraphProto, names: tuple[str, ...]) -> None:
    """Keep these outputs alone, in this order."""
    by_name = {value.name: copy.deepcopy(value) for value in graph.output}
    del graph.output[:]
    graph.output.extend(by_name[name] for name in names)
