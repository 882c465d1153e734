"""Let a real Triton read the repositories that `python -m export triton` writes.

    .venv/bin/python benchmarks/triton_contract.py --server FOLDER

FOLDER is the package `nvidia-pytriton` 0.7, unzipped: it holds a tritonserver, with the Python
backend alone. So two things are tried for each model, on the CPU:

- The repository as it is, for the CPU and for a GPU: Triton must find no fault with it but the
  missing backend. (It looks for GPUs later, so that none is needed.)
- The same with the one word `backend: "python"` changed, and a model.py that runs the very
  model.onnx: names, types, shapes, batching, warm-up, labels and versions as unmodified clients see
  them.

What the ONNX Runtime backend itself does with the configuration is not tried here, nor is a GPU.
Writes `benchmarks/results/triton_contract.json`; ends with code 1 if a check failed.
"""

import json
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import onnxruntime
import typer
from google.protobuf import text_format
from tritonclient import grpc as triton
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from benchmarks.triton_server import MODEL, running, started
from export.triton import write_repository
from export.triton_config import Settings
from prn_guard import console
from prn_guard.contract import UINT8_NHWC, InputTensor, OutputNames
from prn_guard.files import write_json
from tests.export.small_artifact import (
    CLASSES,
    DROP_IN,
    EXTRA,
    SPEC,
    small_graph,
    write_small_artifact,
)

RESULT: Final = Path(__file__).resolve().parent / "results" / "triton_contract.json"
SECONDS: Final = 60
BATCH: Final = 16
REQUESTS: Final = 200


@dataclass(frozen=True)
class Model:
    """One model of the repository under test."""

    name: str
    tensor: InputTensor
    names: OutputNames
    extra: dict[str, list[Any]]


MODELS: Final = (
    Model("uint8-nhwc", UINT8_NHWC, OutputNames(), {}),
    Model(
        "drop-in",
        DROP_IN,
        OutputNames(logits='out"put:0', label="label\\n", score="score\t", flagged="fläg"),
        EXTRA,
    ),
)


def main(
    server: Annotated[Path, typer.Option(help="nvidia-pytriton, unzipped.")],
) -> None:
    """Write repositories, let Triton read and serve them, publish what was seen."""
    server = server.resolve()
    checks: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="prn-guard-triton-") as folder:
        work = Path(folder)
        for model in MODELS:
            _write(work, model, "cpu")
            _write(work / "for a GPU", model, "gpu")
        checks["as written"] = _only_the_backend_is_missing(server, work / "repository")
        gpu = work / "for a GPU" / "repository"
        checks["as written for a GPU"] = _only_the_backend_is_missing(server, gpu)
        checks["control"] = _a_fault_is_seen(server, gpu)
        _with_python_backend(work / "repository")
        with running(server, work, work / "repository") as (client, http, log):
            release = client.get_server_metadata(as_json=True)["version"]
            for model in MODELS:
                checks[model.name] = _serve(client, http, log, work / "repository", model)
    passed = all(value is True for part in checks.values() for value in part.values())
    write_json(
        RESULT,
        {
            "tritonserver": release,
            "backend": "python, running model.onnx in onnxruntime; not the ONNX Runtime backend",
            "device": "cpu",
            "versions": {
                name: version(name) for name in ("tritonclient", "onnxruntime-gpu", "numpy")
            },
            "checks": checks,
            "passed": passed,
        },
    )
    for part, results in checks.items():
        for check, value in results.items():
            console.say(f"{'passed' if value is True else f'FAILED ({value})'}: {part}: {check}")
    sys.exit(0 if passed else 1)


def _write(work: Path, model: Model, device: Any) -> None:
    for number in (1, 2):
        graph = small_graph(model.tensor, model.names, bias=float(number), extra=model.extra)
        artifact = write_small_artifact(
            work / f"{model.name}-{number}", graph, tensor=model.tensor, names=model.names
        )
        settings = Settings(
            name=model.name,
            version=number,
            max_batch_size=BATCH,
            preferred_batch_sizes=(4, 8),
            max_queue_delay_us=20_000,
            device=device,
        )
        uri = "s3://bucket/path" if model is MODELS[0] else None
        write_repository(artifact, work / "repository", settings, storage_uri=uri)


def _only_the_backend_is_missing(server: Path, repository: Path) -> dict[str, Any]:
    text = _log_of_a_start(server, repository)
    # Triton goes on to look for the backend once the configuration has passed its checks.
    missing = "unable to find backend library for backend 'onnxruntime'"
    faults = [line for line in text.splitlines() if "Poll failed" in line or "Invalid arg" in line]
    results: dict[str, Any] = {
        f"{model.name}: no fault but the missing backend, in both versions": (
            text.count(f"failed to load '{model.name}' version 1: Invalid argument: {missing}") == 1
            and text.count(f"failed to load '{model.name}' version 2: Invalid argument: {missing}")
            == 1
        )
        for model in MODELS
    }
    results["no other fault"] = all(missing in line for line in faults) or faults
    results["the file at the root is ignored"] = "inference_service" not in text
    return results


def _a_fault_is_seen(server: Path, repository: Path) -> dict[str, Any]:
    config = repository / MODELS[0].name / "config.pbtxt"
    config.write_text(config.read_text().replace("  dims: [1]\n", ""))
    text = _log_of_a_start(server, repository)
    return {"an output without dims is a fault": "must specify 'dims'" in text}


def _log_of_a_start(server: Path, repository: Path) -> str:
    """What Triton says when it finds no backend, and ends."""
    with started(server, repository, server / "nowhere") as (process, log):
        process.wait(timeout=SECONDS)
        return log.read_text()


def _with_python_backend(repository: Path) -> None:
    for model in MODELS:
        config = repository / model.name / "config.pbtxt"
        text = config.read_text()
        assert text.count('backend: "onnxruntime"') == 1  # noqa: S101 - our own text
        config.write_text(text.replace('backend: "onnxruntime"', 'backend: "python"'))
        for number in (1, 2):
            (repository / model.name / str(number) / "model.py").write_text(MODEL)


def _serve(
    client: triton.InferenceServerClient, http: str, log: Path, repository: Path, model: Model
) -> dict[str, Any]:
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
    kind = {"uint8": "UINT8", "float32": "FP32"}[model.tensor.dtype]
    tensor = triton.InferInput(model.tensor.name, list(pictures.shape), kind)
    tensor.set_data_from_numpy(np.ascontiguousarray(pictures))
    answer = client.infer(model.name, [tensor], model_version=number)
    return {o.name: answer.as_numpy(o.name) for o in answer.get_response().outputs}


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
    kind = {"uint8": "UINT8", "float32": "FP32"}[model.tensor.dtype]
    tensor = triton.InferInput(model.tensor.name, list(pictures.shape), kind)
    tensor.set_data_from_numpy(pictures)
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
        "datatype": {"uint8": "UINT8", "float32": "FP32"}[model.tensor.dtype],
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


if __name__ == "__main__":
    typer.run(main)
