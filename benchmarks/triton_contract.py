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

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks.triton_client import BATCH, Model, serve
from benchmarks.triton_server import MODEL, running, started
from export.triton import write_repository
from export.triton_config import Settings
from prn_guard import console
from prn_guard.contract import UINT8_NHWC, OutputNames
from prn_guard.files import write_json
from tests.export.small_artifact import (
    DROP_IN,
    EXTRA,
    small_graph,
    write_small_artifact,
)

RESULT: Final = Path(__file__).resolve().parent / "results" / "triton_contract.json"
SECONDS: Final = 60


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
                checks[model.name] = serve(client, http, log, work / "repository", model)
        checks["for a GPU, without one"] = _nothing_runs(server, gpu, work / "backends")
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
    text = _log_of_a_start(server, repository, server / "nowhere")
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
    text = _log_of_a_start(server, repository, server / "nowhere")
    return {"an output without dims is a fault": "must specify 'dims'" in text}


def _nothing_runs(server: Path, repository: Path, backends: Path) -> dict[str, Any]:
    _with_python_backend(repository)
    text = _log_of_a_start(server, repository, backends)
    refused = f"of model {MODELS[1].name} has kind KIND_GPU but no GPUs are available"
    return {"it is refused, in both versions": text.count(refused) >= 2}


def _log_of_a_start(server: Path, repository: Path, backends: Path) -> str:
    """What Triton says when it can load nothing, and ends."""
    with started(server, repository, backends) as (process, log):
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


if __name__ == "__main__":
    typer.run(main)
