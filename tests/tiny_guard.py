"""A guard folder whose graph is a handful of nodes, and the classifier to go with it."""

import hashlib

from onnx import TensorProto, helper

from prn_guard.contract import Manifest

SIZE, CHANNELS = 8, 3


def _model(nodes, dtype, shape, outputs):
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def _guarded():
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        node("ReduceMean", ["pixels"], ["logits"], axes=[1, 2], keepdims=0),
        node("ReduceMax", ["logits"], ["score"], axes=[1], keepdims=0),
        node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        node("Sub", ["score", "score"], ["zero"]),
        node("Greater", ["score", "zero"], ["flagged"]),
    ]
    kinds = {"logits": 1, "label": TensorProto.INT64, "score": 1, "flagged": TensorProto.BOOL}
    return _model(nodes, TensorProto.UINT8, ["N", SIZE, SIZE, CHANNELS], kinds.items())


def bare_graph(batch="N"):
    nodes = [helper.make_node("ReduceMean", ["image"], ["logits"], axes=[2, 3], keepdims=0)]
    return _model(nodes, TensorProto.FLOAT, [batch, CHANNELS, SIZE, SIZE], [("logits", 1)])


def write_guard(folder, *, bare=None, wrapped=None):
    files = {"guarded.onnx": _guarded()} | ({"bare.onnx": bare} if bare else {})
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    digest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    parity = dict.fromkeys(
        ("label_mismatches", "flag_mismatches", "inside_margin", "max_logit_difference",
         "max_score_difference"), 0,
    )  # fmt: skip
    Manifest.model_validate(
        {
            "created_by": "tests", "versions": {}, "opset": 17, "precision": "fp32",
            "input": {"channels": 3, "height": SIZE, "width": SIZE, "pixel_range": 255,
                      "mean": (10, 20, 30), "std": (2, 4, 5), "channel_order": "bgr"},
            "tensor": {"name": "image", "dtype": "uint8", "layout": "nhwc"},
            "class_names": ("a", "b", "c"), "names": {},
            "outputs": ("logits", "label", "score", "flagged"),
            "classifier": {"source": "onnx", "digest": "0" * 64,
                           "file_sha256": hashlib.sha256(wrapped or bare_graph()).hexdigest()},
            "trained_against": {"norm": "linf", "epsilon": 0.04},
            "detection": {"threshold": 0, "fitted_threshold": 0, "calibration_pictures": 9,
                          "target_false_positive_rate": 0.01},
            "parity": parity | {"pictures": 9, "score_margin": 1, "logit_margin": 1,
                                "unflagged_bit_equal": True},
            "placement": {"basis": "session", "onnxruntime": "1", "nodes": 5, "on_cpu": ()},
            "files": [{"name": name, "sha256": digest[name], "size_bytes": len(content)}
                      for name, content in files.items()],
        }
    ).write(folder)  # fmt: skip
    return folder
