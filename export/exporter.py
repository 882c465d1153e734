"""torch modules to ONNX, and the removal of what exporters tell of the machine they ran on."""

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Final

import onnx
import torch
from torch import Tensor, nn

from prn_guard.errors import TargetError

OPSET: Final = 20
"""For classifiers given as torch modules. From opset 22 on, onnxruntime 1.31 has no CUDA kernel for
MaxPool."""


def to_onnx(
    module: nn.Module, example: Tensor, *, opset: int, image: str, outputs: tuple[str, ...]
) -> onnx.ModelProto:
    """Export a module of one input as an ONNX model with a free batch axis.

    Args:
        module: maps `example` to as many tensors as there are `outputs`.
        example: at least two pictures; a batch of one would be taken for a constant.
        opset: of the model.
        image: name of the input.
        outputs: names of the outputs, in order.

    Raises:
        TargetError: the module has no ONNX form.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Deprecations inside the exporter are not ours to mend.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[image],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                verbose=False,
            )
    except Exception as error:  # the exporter raises what the module's code makes it raise
        raise TargetError(
            f"The target cannot be exported to ONNX: {_reason(error)} It must be traceable by "
            "`torch.export`: no branches on values, no operators without an ONNX form."
        ) from error
    if program is None:
        raise TargetError("The exporter gave no graph for this target.")
    model = program.model_proto
    name_batch(model.graph)
    forget_sources(model)
    return model


@contextlib.contextmanager
def graph_errors(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever onnx raises over a graph inside into a `TargetError` of `what` and `remedy`."""
    try:
        yield
    except Exception as error:  # composer, checker and protobuf raise kinds of their own
        raise TargetError(f"{what}: {_reason(error)} Nothing was exported. {remedy}") from error


def name_batch(graph: onnx.GraphProto) -> None:
    """Free the batch axis of every input and output, under one name."""
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def forget_sources(model: onnx.ModelProto) -> None:
    """Remove what exporters note of the machine they ran on: stack traces with source paths.

    Nothing that computes is touched, and what has no notes keeps its very bytes: a text that is set
    to nothing would be written, one that is not set is not.
    """
    model.ClearField("doc_string")
    del model.metadata_props[:]
    for function in model.functions:
        function.ClearField("doc_string")
        del function.metadata_props[:]
        forget_in_nodes(function.node)
    _forget_in_graph(model.graph)


def forget_in_tensor(tensor: "onnx.TensorProto | onnx.SparseTensorProto") -> None:
    """As `forget_sources`, of one tensor's values."""
    parts = (
        (tensor.values, tensor.indices) if isinstance(tensor, onnx.SparseTensorProto) else (tensor,)
    )
    for part in parts:
        part.ClearField("doc_string")
        del part.metadata_props[:]


def forget_in_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    """As `forget_sources`, of nodes and the graphs inside them."""
    for node in nodes:
        node.ClearField("doc_string")
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            for graph in (*_one(attribute, "g"), *attribute.graphs):
                _forget_in_graph(graph)
            for tensor in (*_one(attribute, "t"), *attribute.tensors):
                forget_in_tensor(tensor)
            for sparse in (*_one(attribute, "sparse_tensor"), *attribute.sparse_tensors):
                forget_in_tensor(sparse)


def _one(attribute: onnx.AttributeProto, field: str) -> tuple[Any, ...]:
    # Written to, a message that was not set is set from then on.
    return (getattr(attribute, field),) if attribute.HasField(field) else ()


def _forget_in_graph(graph: onnx.GraphProto) -> None:
    graph.ClearField("doc_string")
    del graph.metadata_props[:]
    for part in (*graph.input, *graph.output, *graph.value_info):
        part.ClearField("doc_string")
        del part.metadata_props[:]
    for tensor in (*graph.initializer, *graph.sparse_initializer):
        forget_in_tensor(tensor)
    forget_in_nodes(graph.node)


def _reason(error: BaseException) -> str:
    # The exporter wraps the cause in pages of advice on how to write to its authors.
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}."
