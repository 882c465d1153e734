"""Classifiers as ONNX files of their own, small enough to read."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.classifier_graph import ClassifierGraph
from tests.training.small import trained_target

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


def twin_model(
    *,
    opset: int = 18,
    layout: str = "nchw",
    batch: int | str | None = "n",
    softmax: bool = False,
    image: str = "x",
    answer: str = "y",
    features: str | None = None,
    pooled: bool = False,
    ending: str | None = None,
) -> onnx.ModelProto:
    """`trained_target` of the training tests as an ONNX file: `(N, 1, 12, 12)` to `(N, 3)`.

    Args:
        opset: of the standard operators.
        layout: "nhwc" begins with a transposition.
        batch: first axis as declared; a number fixes it, None leaves it without a name.
        softmax: end in one, over `(N, 3, 1, 1)` as older exporters do, and its values reshaped.
        image: name of the input.
        answer: name of the output.
        features: name of an output that stands before the answer, or none.
        pooled: a maximum over one pixel, which changes nothing, after the convolution.
        ending: an operator without attributes that changes no answer, after the answer.
    """
    state = trained_target().classifier.state_dict()
    weights = {name: value.numpy() for name, value in state.items() if value.ndim}
    make, hidden = helper.make_node, features or "hidden"
    first, last = ("turned" if layout == "nhwc" else image), ("z" if softmax or ending else answer)
    normalised = [f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    nodes = [
        make("Conv", [first, "0.weight", "0.bias"], ["c"], strides=[2, 2], pads=[1] * 4),
        make("MaxPool", ["c"], ["m"], name="pool", kernel_shape=[1, 1]),
        make("BatchNormalization", ["m" if pooled else "c", *normalised], ["n"]),
        make("Relu", ["n"], ["r"]),
        make("Flatten", ["r"], ["f"]),
        make("Gemm", ["f", "4.weight", "4.bias"], ["g"], transB=1),
        make("Relu", ["g"], [hidden]),
        make("Gemm", [hidden, "6.weight", "6.bias"], [last], transB=1),
    ]
    if not pooled:
        del nodes[1]
    if layout == "nhwc":
        nodes.insert(0, make("Transpose", [image], [first], perm=[0, 3, 1, 2]))
    if softmax:
        weights["plane"] = np.array([0, -1, 1, 1], dtype=np.int64)
        nodes += [
            make("Reshape", [last, "plane"], ["s"]),
            make("Softmax", ["s"], ["p"], axis=1),
            make("Flatten", ["p"], [answer]),
        ]
    if ending is not None:
        nodes.append(make(ending, [last], [answer]))
    size = [batch, 1, 12, 12] if layout == "nchw" else [batch, 12, 12, 1]
    outputs = [*([(features, 24)] if features else []), (answer, 3)]
    graph = helper.make_graph(
        nodes,
        "twin",
        [helper.make_tensor_value_info(image, TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, k]) for n, k in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10 if opset > 20 else 8
    )
