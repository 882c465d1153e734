"""Artifact folders with a graph of a few nodes, written by hand: no training, no torch."""

import hashlib
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from prn_guard.contract import (
    UINT8_NHWC,
    Ball,
    Classifier,
    Detection,
    FileEntry,
    InputSpec,
    InputTensor,
    Manifest,
    OutputNames,
    Parity,
    Placement,
)

CLASSES = ("ant", "bee: a", "", "[bold]Käfer\t")
SPEC = InputSpec(
    channels=3, height=8, width=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), layout="nchw"
)
DROP_IN = InputTensor(name="data", dtype="float32", layout="nchw")
TYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
EXTRA = {"features": ["B", 2], "map": [None, "rows", "columns"]}


def small_graph(
    tensor: InputTensor = UINT8_NHWC,
    names: OutputNames | None = None,
    *,
    batch: int | str = "N",
    bias: float = 0.0,
    classes: int = len(CLASSES),
    extra: dict[str, list[Any]] | None = None,
) -> onnx.ModelProto:
    """Logits: the mean value plus 0, 1, 2, ... and `bias`. Extra outputs come first."""
    names = names or OutputNames()
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    steps = helper.make_tensor(
        "steps", TensorProto.FLOAT, [1, classes], [bias + step for step in range(classes)]
    )
    limit = helper.make_tensor("limit", TensorProto.FLOAT, [], [100.0])
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Cast", [tensor.name], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], [names.score], keepdims=0),
        helper.make_node("Greater", [names.score, "limit"], [names.flagged]),
        helper.make_node("Unsqueeze", [names.score, "one"], ["column"]),
        helper.make_node("Add", ["column", "steps"], [names.logits]),
        helper.make_node("ArgMax", [names.logits], [names.label], axis=1, keepdims=0),
    ]
    outputs = []
    for name, shape in (extra or {}).items():
        source = "pair" if len(shape) == 2 else "slice"
        nodes.append(helper.make_node("Identity", [source], [name]))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    if extra:
        nodes += [
            helper.make_node("Concat", ["column", "column"], ["pair"], axis=1),
            helper.make_node("ReduceMax", ["pixels", "one"], ["slice"], keepdims=0),
        ]
        nodes = [*nodes[:6], *nodes[-2:], *nodes[6:-2]]
    outputs += [
        helper.make_tensor_value_info(names.logits, TensorProto.FLOAT, [batch, classes]),
        helper.make_tensor_value_info(names.flagged, TensorProto.BOOL, [batch]),
        helper.make_tensor_value_info(names.label, TensorProto.INT64, [batch]),
        helper.make_tensor_value_info(names.score, TensorProto.FLOAT, [batch]),
    ]
    picture = helper.make_tensor_value_info(
        tensor.name, TYPES[tensor.dtype], [batch, *tensor.shape(SPEC)]
    )
    graph = helper.make_graph(nodes, "small", [picture], outputs, [axes, steps, limit, one])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def write_small_artifact(
    folder: Path,
    model: onnx.ModelProto | None = None,
    *,
    tensor: InputTensor = UINT8_NHWC,
    names: OutputNames | None = None,
    class_names: tuple[str, ...] = CLASSES,
    outputs: tuple[str, ...] | None = None,
) -> Path:
    """Write `guarded.onnx` and its manifest; what is not given follows from `model`."""
    model = model or small_graph(tensor, names)
    content = model.SerializeToString()
    digest = hashlib.sha256(content).hexdigest()
    folder.mkdir(parents=True)
    (folder / "guarded.onnx").write_bytes(content)
    Manifest(
        created_by="tests",
        versions={"onnx": onnx.__version__},
        opset=20,
        precision="fp32",
        input=SPEC,
        tensor=tensor,
        class_names=class_names,
        outputs=outputs or tuple(output.name for output in model.graph.output),
        names=names or OutputNames(),
        classifier=Classifier(source="torch", file_sha256=None, digest=digest),
        trained_against=Ball(norm="linf", epsilon=10 / 255),
        detection=Detection(
            threshold=100.0,
            fitted_threshold=100.0,
            target_false_positive_rate=0.01,
            calibration_pictures=500,
        ),
        parity=Parity(
            pictures=64,
            driven=8,
            label_mismatches=0,
            flag_mismatches=0,
            differing=0,
            inside_margin=0,
            driven_inside_margin=2,
            score_margin=1e-3,
            logit_margin=1e-3,
            max_logit_difference=0.0,
            max_score_difference=0.0,
            unflagged_bit_equal=True,
        ),
        placement=Placement(basis="kernel table", onnxruntime="1.31.1", nodes=6, on_cpu=()),
        files=(FileEntry(name="guarded.onnx", sha256=digest, size_bytes=len(content)),),
    ).write(folder)
    return folder
