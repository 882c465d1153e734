"""A guard folder whose graph is a handful of nodes, and the classifier to go with it."""

import hashlib

from onnx import TensorProto, helper

from prn_guard.contract import Manifest

SIZE, CHANNELS = 8, 3


def small_model(nodes, dtype, shape, outputs, weights=()):
    """One input `image`; none where `shape` is None."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [] if shape is None else [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
        list(weights),
    )
    domains = {"": 17} | {node.domain: 1 for node in nodes if node.domain}
    opset = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
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
    return small_model(nodes, TensorProto.UINT8, ["N", SIZE, SIZE, CHANNELS], kinds.items())


def bare_graph(batch="N"):
    nodes = [helper.make_node("ReduceMean", ["image"], ["logits"], axes=[2, 3], keepdims=0)]
    return small_model(nodes, TensorProto.FLOAT, [batch, CHANNELS, SIZE, SIZE], [("logits", 1)])


def picture_graph(nodes, dtype, layout, weights=()):
    """From pictures of the guard's size to `same`, of the same type."""
    sizes = [SIZE, SIZE, CHANNELS] if layout == "nhwc" else [CHANNELS, SIZE, SIZE]
    return small_model(nodes, dtype, ["N", *sizes], [("same", dtype)], weights)


def _sha256(content):
    return hashlib.sha256(content).hexdigest()


def write_guard(folder, *, bare=None, wrapped=None):
    files = {"guarded.onnx": _guarded()} | ({"bare.onnx": bare} if bare else {})
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    parity = dict.fromkeys(
        ("driven", "label_mismatches", "flag_mismatches", "differing", "inside_margin",
         "driven_inside_margin", "max_logit_difference", "max_score_difference"), 0,
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
                           "file_sha256": _sha256(bare_graph() if wrapped is None else wrapped)},
            "trained_against": {"norm": "linf", "epsilon": 0.04},
            "detection": {"threshold": 0, "fitted_threshold": 0, "calibration_pictures": 9,
                          "target_false_positive_rate": 0.01},
            "parity": parity | {"pictures": 9, "score_margin": 1, "logit_margin": 1,
                                "unflagged_bit_equal": True},
            "placement": {"basis": "session", "onnxruntime": "1", "nodes": 5, "on_cpu": ()},
            "files": [{"name": name, "sha256": _sha256(content), "size_bytes": len(content)}
                      for name, content in files.items()],
        }
    ).write(folder)  # fmt: skip
    return folder
