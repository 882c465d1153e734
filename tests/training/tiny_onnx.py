"""Tiny ONNX classifiers, node by node, and what their answers are in torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

SIDE, WIDTH, CLASSES = 12, 4, 3
IR_VERSION = 10
OPSETS = (13, 17, 18, 20, 23)


def weights(channels: int = 1) -> dict[str, np.ndarray[Any, Any]]:
    """Of a convolution and a linear layer."""
    generator = np.random.default_rng(3)
    return {
        "w": generator.standard_normal((WIDTH, channels, 3, 3)).astype(np.float32),
        "b": generator.standard_normal(WIDTH).astype(np.float32),
        "v": generator.standard_normal((WIDTH * 9, CLASSES)).astype(np.float32),
        "c": generator.standard_normal(CLASSES).astype(np.float32),
    }


def twin(images: Tensor, channels: int = 1) -> Tensor:
    """The same network by hand, in the precision of `images`."""
    w = {name: torch.from_numpy(value).to(images) for name, value in weights(channels).items()}
    hidden = F.max_pool2d(F.relu(F.conv2d(images, w["w"], w["b"], stride=2, padding=1)), 2)
    return hidden.flatten(1) @ w["v"] + w["c"]


def network(first: str = "x", last: str = "logits") -> list[NodeProto]:
    """Convolution, ReLU, pooling, linear: from the value `first` to the value `last`."""
    return [
        helper.make_node("Conv", [first, "w", "b"], ["h1"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("MaxPool", ["h2"], ["h3"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["h3"], ["h4"]),
        helper.make_node("Gemm", ["h4", "v", "c"], [last]),
    ]


def model(
    nodes: Sequence[NodeProto] | None = None,
    *,
    opset: int = 20,
    shape: Sequence[int | str | None] = ("n", 1, SIDE, SIDE),
    outputs: Sequence[tuple[str, Sequence[int | str]]] = (("logits", ("n", CLASSES)),),
    tensors: dict[str, np.ndarray[Any, Any]] | None = None,
    kind: int = TensorProto.FLOAT,
    domains: Sequence[str] = (),
) -> ModelProto:
    """An ONNX classifier; without arguments, `network` on gray pictures."""
    initialisers = weights() if tensors is None else tensors
    graph = helper.make_graph(
        network() if nodes is None else list(nodes),
        "tiny",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in outputs],
        [numpy_helper.from_array(value, name) for name, value in initialisers.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    made = helper.make_model(graph, opset_imports=imports)
    made.ir_version = IR_VERSION
    return made


def nhwc() -> ModelProto:
    """It takes colour pictures with the channels last."""
    turn = helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])
    return model([turn, *network("t")], shape=("n", SIDE, SIDE, 3), tensors=weights(3))


def softmax(**options: Any) -> ModelProto:
    """It answers with probabilities, reshaped once more as some exporters do."""
    ending = [
        helper.make_node("Softmax", ["logits"], ["p"], axis=1),
        helper.make_node("Flatten", ["p"], ["probabilities"]),
    ]
    return model([*network(), *ending], outputs=(("probabilities", ("n", CLASSES)),), **options)


def several_outputs() -> ModelProto:
    """It answers with its features first."""
    return model(outputs=(("h3", ("n", WIDTH, 3, 3)), ("logits", ("n", CLASSES))))


def content(made: ModelProto) -> bytes:
    """The file's bytes."""
    return bytes(made.SerializeToString())


def parts(made: onnx.ModelProto) -> tuple[list[bytes], list[bytes]]:
    """Nodes and initialisers, as bytes."""
    return (
        [node.SerializeToString() for node in made.graph.node],
        [tensor.SerializeToString() for tensor in made.graph.initializer],
    )
