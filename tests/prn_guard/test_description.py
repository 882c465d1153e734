"""A manifest in words."""

from prn_guard.contract import Manifest
from prn_guard.description import describe
from tests.prn_guard.tiny import tiny_manifest, tiny_spec


def facts(change=lambda _: None):
    record = tiny_manifest(tiny_spec(), b"graph")
    change(record)
    return dict(describe(Manifest.model_validate(record)))


def test_what_the_graph_takes_and_answers():
    told = facts()
    assert told["pictures"] == "8 x 8, RGB"
    assert told["input tensor"] == "image: uint8 (N, 8, 8, 3), nhwc"
    assert told["scaling, inside the graph"].startswith("rgb, range 1, mean (0.0,")
    assert told["outputs"] == "flagged, score, label, logits"
    assert told["answers"] == "logits: logits, label: label, score: score, flagged: flagged"
    assert told["precision"] == "fp32"


def test_a_drop_in_graph_is_scaled_before_it():
    def change(record):
        record["tensor"] = {"name": "data", "dtype": "float32", "layout": "nchw"}
        record["precision"] = "fp16"

    told = facts(change)
    assert told["input tensor"] == "data: float32 (N, 3, 8, 8), nchw"
    assert "scaling, before the graph" in told
    assert told["precision"] == "fp16"


def test_classifier_and_its_digests():
    told = facts()
    assert (told["classifier"], told["sha256 in the graph"]) == ("torch", "c" * 64)
    assert told["sha256 of its file"].startswith("none")

    def change(record):
        record["classifier"].update(source="onnx", file_sha256="d" * 64)

    assert facts(change)["sha256 of its file"] == "d" * 64


def test_threshold_before_and_after_calibration():
    assert facts()["threshold"] == "0.5 (before calibration on the graph: 0.25)"
    same = facts(lambda record: record["detection"].update(fitted_threshold=0.5))
    assert same["threshold"] == "0.5"


def test_placement():
    told = facts()["placement"]
    assert told == "all 10 nodes have a CUDA kernel (onnxruntime 1.31.1), by the table of kernels"

    def change(record):
        record["placement"].update(on_cpu=[f"node{i}" for i in range(6)], basis="session")

    told = facts(change)["placement"]
    assert told.startswith("6 of 10 nodes have no CUDA kernel (onnxruntime 1.31.1): node0, ")
    assert told.endswith("node4, ..., by a session on a GPU")
