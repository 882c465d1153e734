"""Classifiers as ONNX files of their own, small enough to read."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.classifier_graph import ClassifierGraph

SIDE, CLASSES = 8, 4


def classifier_model(
    *,
    opset: int = 17,
    image: str = "image",
    logits: str = "logits",
    features: str | None = None,
    layout: str = "nchw",
    ir_version: int = 8,
    inner: str = "hidden",
) -> onnx.ModelProto:
    """Convolution, ReLU, mean over the plane, linear: `(N, 3, 8, 8)` to `(N, 4)`.

    Args:
        opset: of the standard operators.
        image: name of the input.
        logits: name of the output.
        features: name of a second output, or none.
        layout: "nhwc" begins with a transposition.
        ir_version: of the file.
        inner: name of the tensor after the convolution.
    """
    rng = np.random.default_rng(3)
    weights = {
        "kernel": rng.normal(size=(5, 3, 3, 3)).astype(np.float32),
        "shift": rng.normal(size=5).astype(np.float32),
        "matrix": rng.normal(size=(5, CLASSES)).astype(np.float32),
    }
    pooled = features or "pooled"
    first = image
    nodes = []
    if layout == "nhwc":
        first = "transposed"
        nodes.append(helper.make_node("Transpose", [image], [first], perm=[0, 3, 1, 2]))
    nodes += [
        helper.make_node("Conv", [first, "kernel", "shift"], [inner], name="c", pads=[1] * 4),
        helper.make_node("Relu", [inner], ["active"], name="r"),
        helper.make_node("GlobalAveragePool", ["active"], ["mean"], name="p"),
        helper.make_node("Flatten", ["mean"], [pooled], name="f"),
        helper.make_node("MatMul", [pooled, "matrix"], [logits], name="m"),
    ]
    size = ["N", 3, SIDE, SIDE] if layout == "nchw" else ["N", SIDE, SIDE, 3]
    outputs = [(logits, CLASSES), *([(features, 5)] if features else [])]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(image, TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", k]) for n, k in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )


def classifier_graph(model: onnx.ModelProto) -> ClassifierGraph:
    """The model as the exporter takes it."""
    return ClassifierGraph(
        model=model,
        source="onnx",
        input_name=model.graph.input[0].name,
        logits_name=model.graph.output[0].name,
        file_sha256=None,
    )
