"""What an unmodified Triton client sees of one served model, against onnxruntime and the file."""

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from google.protobuf import text_format
from tritonclient import grpc as triton
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from prn_guard.contract import InputTensor, OutputNames
from tests.export.small_artifact import CLASSES, SPEC

BATCH: Final = 16
REQUESTS: Final = 200
TYPES: Final = {"uint8": "UINT8", "float32": "FP32"}


@dataclass(frozen=True)
class Model:
    """One model of the repository under test."""

    name: str
    tensor: InputTensor
    names: OutputNames
    extra: dict[str, list[Any]]


def serve(
    client: triton.InferenceServerClient, http: str, log: Path, repository: Path, model: Model
) -> dict[str, Any]:
    """Each check, and whether it passed; `model` is served in versions 1 and 2."""
    text = (repository / model.name / "config.pbtxt").read_text()
    written = text_format.Parse(text, model_config_pb2.ModelConfig())
    served = client.get_model_config(model.name).config
    metadata = client.get_model_metadata(model.name)
    session = onnxruntime.InferenceSession(
        repository / model.name / "2" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (REQUESTS, *model.tensor.shape(SPEC))).astype(
        model.tensor.dtype
    )
    names = [output.name for output in written.output]
    expected = dict(zip(names, session.run(names, {model.tensor.name: pictures}), strict=True))
    results = {
        "inputs and outputs as written": list(served.input) == list(written.input)
        and list(served.output) == list(written.output),
        "batching, instances, versions and warm-up as written": (
            served.dynamic_batching == written.dynamic_batching
            and served.version_policy == written.version_policy
            and list(served.model_warmup) == list(written.model_warmup)
            and served.instance_group[0].kind == written.instance_group[0].kind
        ),
        "both versions ready": sorted(metadata.versions) == ["1", "2"],
        "shapes and types as clients are told": _as_told(metadata, expected),
        "one request of a whole batch": _same(
            _ask(client, model, pictures[:BATCH]), {k: v[:BATCH] for k, v in expected.items()}
        ),
    }
    before = _counts(client, model)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda p: _ask(client, model, p[None]), pictures))
    after = _counts(client, model)
    joined = {name: np.concatenate([answer[name] for answer in answers]) for name in names}
    results |= {
        f"{REQUESTS} requests at once, bit for bit": _same(joined, expected),
        "they were batched": after[1] - before[1] < after[0] - before[0] == REQUESTS,
        "version 1 by number": bool(
            np.array_equal(
                _ask(client, model, pictures[:1], "1")[model.names.logits] + 1,
                expected[model.names.logits][:1],
            )
        ),
        "class names, the empty one left out": _labels(client, model, pictures[:1]),
        "a batch above the limit is refused": _refused(client, model, pictures[: BATCH + 1]),
        "another shape is refused": _refused(client, model, pictures[:1, ..., :1]),
        "HTTP with JSON": _over_http(http, model, pictures[0], expected),
        "warm-up ran at 1, 4, 8 and 16": {"BATCH 1", "BATCH 4", "BATCH 8", "BATCH 16"}
        <= set(log.read_text().partition("Started GRPC")[0].splitlines()),
    }
    return results


def _as_told(metadata: Any, expected: dict[str, np.ndarray]) -> bool:
    told = {output.name: (output.datatype, list(output.shape)) for output in metadata.outputs}
    return told.keys() == expected.keys() and all(
        triton_to_np_dtype(told[name][0]) == value.dtype
        and told[name][1] == [-1, *(value.shape[1:] or [1])]
        for name, value in expected.items()
    )


def _ask(
    client: triton.InferenceServerClient, model: Model, pictures: np.ndarray, number: str = ""
) -> dict[str, np.ndarray]:
    answer = client.infer(model.name, [_tensor(model, pictures)], model_version=number)
    return {o.name: answer.as_numpy(o.name) for o in answer.get_response().outputs}


def _tensor(model: Model, pictures: np.ndarray) -> triton.InferInput:
    tensor = triton.InferInput(model.tensor.name, list(pictures.shape), TYPES[model.tensor.dtype])
    tensor.set_data_from_numpy(np.ascontiguousarray(pictures))
    return tensor


def _same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Equal bits; what is `[N]` in the graph is `[N, 1]` to clients."""
    return found.keys() == expected.keys() and all(
        found[name].tobytes() == value.tobytes()
        and found[name].shape == (len(value), *(value.shape[1:] or (1,)))
        for name, value in expected.items()
    )


def _counts(client: triton.InferenceServerClient, model: Model) -> tuple[int, int]:
    statistics = client.get_inference_statistics(model.name).model_stats
    newest = next(entry for entry in statistics if entry.version == "2")
    return newest.inference_count, newest.execution_count


def _labels(client: triton.InferenceServerClient, model: Model, pictures: np.ndarray) -> bool:
    tensor = _tensor(model, pictures)
    wanted = [triton.InferRequestedOutput(model.names.logits, class_count=len(CLASSES))]
    rows = client.infer(model.name, [tensor], outputs=wanted).as_numpy(model.names.logits)
    found = [row.decode().split(":", 1)[1] for row in rows[0]]
    return (
        found
        == [f"{index}:{name}" if name else str(index) for index, name in enumerate(CLASSES)][::-1]
    )


def _refused(client: triton.InferenceServerClient, model: Model, pictures: np.ndarray) -> bool:
    try:
        _ask(client, model, pictures)
    except InferenceServerException as error:
        return error.status() == "StatusCode.INVALID_ARGUMENT"
    return False


def _over_http(
    address: str, model: Model, picture: np.ndarray, expected: dict[str, np.ndarray]
) -> bool:
    tensor = {
        "name": model.tensor.name,
        "shape": [1, *picture.shape],
        "datatype": TYPES[model.tensor.dtype],
        "data": picture.ravel().tolist(),
    }
    request = urllib.request.Request(
        f"http://{address}/v2/models/{model.name}/infer",
        json.dumps({"inputs": [tensor]}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:  # noqa: S310
        outputs = {output["name"]: output for output in json.load(response)["outputs"]}
    return outputs.keys() == expected.keys() and all(
        np.array_equal(
            np.array(outputs[name]["data"], value.dtype).reshape(value[:1].shape), value[:1]
        )
        for name, value in expected.items()
    )
