"""A guard small enough to compute by hand, as ONNX and manifest.

Pixels, weights and biases are small integers, so every float32 sum is exact and the oracle tests
can ask for equal bits.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper

from prn_guard.contract import InputSpec, seal

SIZE, CHANNELS, CLASSES = 8, 3, 4
VALUES = SIZE * SIZE * CHANNELS
THRESHOLD = 0.5

_PLAIN = serialization.NoEncryption()
_rng = np.random.default_rng(0)
WEIGHTS = _rng.integers(-3, 4, (VALUES, CLASSES)).astype(np.float32)
BIASES = _rng.integers(-50, 51, CLASSES).astype(np.float32)


def tiny_model() -> onnx.ModelProto:
    """Score: mean pixel on [0, 1]. Rectifier: halve every pixel. Classifier: linear."""
    constants = {
        "axes": np.array([1, 2, 3]),
        "column": np.array([-1, 1, 1, 1]),
        "full": np.float32(VALUES * 255),
        "half": np.float32(0.5),
        "threshold": np.float32(THRESHOLD),
        "weights": WEIGHTS,
        "biases": BIASES,
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["pixels", "axes"], ["total"], keepdims=0),
        helper.make_node("Div", ["total", "full"], ["score"]),
        helper.make_node("Greater", ["score", "threshold"], ["flagged"]),
        helper.make_node("Reshape", ["flagged", "column"], ["choice"]),
        helper.make_node("Mul", ["pixels", "half"], ["halved"]),
        helper.make_node("Where", ["choice", "halved", "pixels"], ["chosen"]),
        helper.make_node("Flatten", ["chosen"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "biases"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    picture = ["N", SIZE, SIZE, CHANNELS]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, picture)],
        # Not in the order of the contract: outputs must be addressed by name.
        [
            helper.make_tensor_value_info("flagged", TensorProto.BOOL, ["N"]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES]),
        ],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9, producer_name="tests"
    )


def unknown_operator(model: onnx.ModelProto) -> None:
    """Make a model one that no build of onnxruntime loads."""
    model.graph.node[0].op_type = "Surprise"


def tiny_manifest(spec: InputSpec, graph: bytes) -> dict[str, Any]:
    return {
        "manifest_version": 2,
        "created_by": "tests",
        "versions": {"onnx": onnx.__version__},
        "opset": 20,
        "precision": "fp32",
        "input": spec.model_dump(mode="json"),
        "tensor": {"name": "image", "dtype": "uint8", "layout": "nhwc"},
        "class_names": ["ant", "bee", "[bold]cat", "dog"],
        "outputs": ["flagged", "score", "label", "logits"],
        "names": {name: name for name in ("logits", "label", "score", "flagged")},
        "classifier": {"source": "torch", "file_sha256": None, "digest": "c" * 64},
        "trained_against": {"norm": "linf", "epsilon": 10 / 255},
        "detection": {
            "threshold": THRESHOLD,
            "fitted_threshold": 0.25,
            "target_false_positive_rate": 0.01,
            "calibration_pictures": 500,
        },
        "parity": {
            "pictures": 64,
            "driven": 8,
            "label_mismatches": 0,
            "flag_mismatches": 0,
            "differing": 0,
            "inside_margin": 1,
            "driven_inside_margin": 2,
            "score_margin": 1e-3,
            "logit_margin": 1e-3,
            "max_logit_difference": 1e-5,
            "max_score_difference": 1e-6,
            "unflagged_bit_equal": True,
        },
        "placement": {
            "basis": "kernel table",
            "onnxruntime": "1.31.1",
            "nodes": 10,
            "on_cpu": [],
        },
        "files": [
            {
                "name": "guarded.onnx",
                "sha256": hashlib.sha256(graph).hexdigest(),
                "size_bytes": len(graph),
            }
        ],
    }


def tiny_spec() -> InputSpec:
    """8 x 8 RGB, on the scale of the pixels over 255."""
    return InputSpec(
        channels=CHANNELS, height=SIZE, width=SIZE, mean=(0.0,) * CHANNELS, std=(1.0,) * CHANNELS
    )


def write_folder(folder: Path, graph: bytes, record: dict[str, Any]) -> None:
    """Write graph and manifest; the manifest is sealed, whatever it holds."""
    folder.mkdir(exist_ok=True)
    (folder / "guarded.onnx").write_bytes(graph)
    (folder / "manifest.json").write_text(json.dumps({**record, "manifest_sha256": seal(record)}))


def write_keys(
    folder: Path,
    key: Ed25519PrivateKey,
    encryption: serialization.KeySerializationEncryption = _PLAIN,
) -> tuple[Path, Path]:
    """Both halves of a key as PEM files: private, public."""
    private, public = folder / "private.pem", folder / "public.pem"
    pem = serialization.Encoding.PEM
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption))
    public.write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public
