"""The tiny guard as the page shows it: with rectified pictures and its bare classifier, or without.

Bright pictures are flagged, dark ones are not; a flagged one is classified at half its brightness.
"""

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from prn_guard.serve.run import Control, run
from prn_guard.serve.settings import ServeSettings
from tests.prn_guard.tiny import (
    BIASES,
    CHANNELS,
    CLASSES,
    SIZE,
    VALUES,
    WEIGHTS,
    tiny_manifest,
    tiny_model,
    tiny_spec,
    write_folder,
)

NAMES = ("ant", "bee & <i>wasp</i>", "cat", "dog")
SOFTER = np.float32(2000)
"""The tiny guard's logits over this: probabilities that are not all 1."""


def write_shown(folder: Path, *, rectified: bool = True, bare: bool = True) -> Path:
    model = tiny_model()
    for tensor, values in (("weights", WEIGHTS), ("biases", BIASES)):
        found = next(item for item in model.graph.initializer if item.name == tensor)
        found.CopyFrom(numpy_helper.from_array(values / SOFTER, tensor))
    if rectified:
        _answer_with_rectified(model.graph)
    content = model.SerializeToString()
    record = tiny_manifest(tiny_spec(), content)
    record["class_names"] = list(NAMES)
    if rectified:
        record["outputs"].append("rectified")
        record["names"]["rectified"] = "rectified"
    if bare:
        alone = _bare_model().SerializeToString()
        digest = hashlib.sha256(alone).hexdigest()
        record["files"].append({"name": "bare.onnx", "sha256": digest, "size_bytes": len(alone)})
    write_folder(folder, content, record)
    if bare:
        (folder / "bare.onnx").write_bytes(alone)
    return folder


def _answer_with_rectified(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.float32(255), "white"))
    graph.node.append(helper.make_node("Div", ["halved", "white"], ["rectified"]))
    shape = ["N", SIZE, SIZE, CHANNELS]
    graph.output.append(helper.make_tensor_value_info("rectified", TensorProto.FLOAT, shape))


def _bare_model() -> onnx.ModelProto:
    """Takes pictures over 255, channels first; the tiny guard's weights follow channels last."""
    constants = {"weights": WEIGHTS * 255 / SOFTER, "biases": BIASES / SOFTER}
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["last"], perm=[0, 2, 3, 1]),
            helper.make_node("Flatten", ["last"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights", "biases"], ["y"]),
        ],
        "bare",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", CHANNELS, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [
            numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in constants.items()
        ],
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9, producer_name="tests")


def picture(*, bright: bool, seed: int = 0) -> np.ndarray:
    """`(8, 8, 3)` uint8, random around a mean of about 217 or 38."""
    noise = np.random.default_rng(seed).integers(0, 77, (SIZE, SIZE, CHANNELS))
    return (255 - noise if bright else noise).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def said_of(pixels: np.ndarray) -> tuple[str, str]:
    """What the bare classifier says, in float64: name, and probability as the page writes it."""
    logits = (pixels.astype(np.float64).reshape(-1) @ WEIGHTS + BIASES) / float(SOFTER)
    powers = np.exp(logits - logits.max())
    return NAMES[int(logits.argmax())], f"{100 * powers.max() / powers.sum():.1f} %"


def score_of(pixels: np.ndarray) -> float:
    return float(pixels.sum() / (VALUES * 255))


@contextmanager
def served(folder: Path, **settings: object) -> Iterator[str]:
    """A server of its own in a thread; gives the page's address."""
    control, failures = Control(), []
    usual = {"folder": folder, "port": 0, "grpc": False, "threads": 1, "stop_delay": 0.0}

    def work() -> None:
        try:
            run(ServeSettings.model_validate(usual | settings), control=control)
        except BaseException as error:
            failures.append(error)
            control.ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert control.ready.wait(30)
        if failures:
            raise failures[0]
        assert control.addresses is not None
        yield f"http://127.0.0.1:{control.addresses.port}/"
    finally:
        control.stop()
        thread.join(30)
    assert not thread.is_alive()
