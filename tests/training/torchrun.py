"""Two processes, started as a user starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def torchrun(*arguments: object) -> None:
    """Two processes of `python <arguments>`, connected on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _run(
        *("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"),
        *(f"--master-port={port}", *arguments),
    )


def alone(*arguments: object) -> None:
    """One process of `python <arguments>`, with as many threads as each of two has."""
    _run(*arguments)


def _run(*arguments: object) -> None:
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(  # noqa: S603
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
