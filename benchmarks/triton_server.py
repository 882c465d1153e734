"""The tritonserver that the package `nvidia-pytriton` 0.7 holds, started and ended."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tritonclient import grpc as triton

SECONDS: Final = 60

# pybind11 of this Triton reads NumPy 1's arrays only; DLPack passes those of NumPy 2.
MODEL: Final = """
import json, os
import numpy as np
import onnxruntime
import triton_python_backend_utils as utils

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        place = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"])
        self.input = config["input"][0]["name"]
        self.outputs = [output["name"] for output in config["output"]]

    def execute(self, requests):
        tensors = [utils.get_input_tensor_by_name(r, self.input) for r in requests]
        pictures = [np.from_dlpack(tensor) for tensor in tensors]
        print("BATCH", sum(map(len, pictures)), flush=True)
        answers = []
        for picture in pictures:
            values = self.session.run(self.outputs, {self.input: picture})
            tensors = [
                utils.Tensor.from_dlpack(name, np.ascontiguousarray(value))
                for name, value in zip(self.outputs, values)
            ]
            answers.append(utils.InferenceResponse(tensors))
        return answers
"""


@contextmanager
def running(
    server: Path, work: Path, repository: Path
) -> Iterator[tuple[triton.InferenceServerClient, str, Path]]:
    """Serve `repository` with the Python backend: a gRPC client, HTTP's address, the log."""
    backends = work / "backends"
    shutil.copytree(server / "pytriton" / "tritonserver" / "backends", backends)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = "triton_python_backend_stub"
    shutil.copy2(
        server / "pytriton" / "tritonserver" / "python_backend_stubs" / python / stub,
        backends / "python" / stub,
    )
    grpc, http = free_port(), free_port()
    with started(server, repository, backends, grpc, http) as (process, log):
        client = triton.InferenceServerClient(f"127.0.0.1:{grpc}")
        deadline = time.monotonic() + SECONDS
        while "Started HTTPService" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"tritonserver did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield client, f"127.0.0.1:{http}", log


@contextmanager
def started(
    server: Path, repository: Path, backends: Path, grpc: int = 0, http: int = 0
) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Start the server on `repository`, on ports of its own choice unless given; end it after."""
    log = repository.parent / f"{backends.name}.log"
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(server / "nvidia_pytriton.libs"),
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if "site-packages" in entry),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
    }
    command = [
        server / "pytriton" / "tritonserver" / "bin" / "tritonserver",
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--disable-auto-complete-config",
        "--allow-metrics=false",
        "--grpc-address=127.0.0.1",
        "--http-address=127.0.0.1",
        f"--grpc-port={grpc or free_port()}",
        f"--http-port={http or free_port()}",
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(  # noqa: S603 - the server that the caller named
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield process, log
    finally:
        process.terminate()
        process.wait(timeout=SECONDS)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
