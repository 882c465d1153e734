"""Memory of the server over 100,000 requests.

    .venv/bin/python -m benchmarks.serving_soak

`prn-guard serve` in a process of its own, the tiny guard of the tests, REST with the binary
extension, every answer checked as `benchmarks/serving_steady.py` does. Resident memory is read at
marks; its slope is a least-squares line over the marks of the second half, after caches, pools and
the alarm's window have filled. Writes `benchmarks/results/serving_soak.json`, and its table into
docs/scaling.md.
"""

import asyncio
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from benchmarks.publishing import commit, publish, table
from benchmarks.serving_client import connect
from benchmarks.serving_process import Served, served
from benchmarks.serving_ray import tiny_folder
from benchmarks.serving_steady import CLIENTS, TINY, Seen
from prn_guard import console
from prn_guard.errors import PrnGuardError
from prn_guard.files import read_json, write_json

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "benchmarks" / "results" / "serving_soak.json"
PAGE: Final = ROOT / "docs" / "scaling.md"
MARKS: Final = 20
CONNECTIONS: Final = 16
SHOWN: Final = (0, 1, 2, 5, 10, 15, 20)
"""Marks of the table."""
MIB: Final = 2**20


def main(
    requests: Annotated[int, typer.Option(min=1000, help="Altogether.")] = 100_000,
    out: Annotated[Path, typer.Option(help="The result file.")] = RESULT,
) -> None:
    """Ask, write down, publish."""
    with tempfile.TemporaryDirectory(prefix="prn-guard-soak-") as temporary:
        folder = tiny_folder(Path(temporary))
        with served(folder, "--no-grpc") as server:
            result = asyncio.run(soak(server, requests))
    versions = {name: version(name) for name in ("uvicorn", "fastapi", "onnxruntime-gpu")}
    write_json(out, {"commit": commit(), "versions": versions, **result})
    if out == RESULT:
        publish(PAGE, "serving_soak", render(read_json(out)))
    console.say(render(read_json(out)))


async def soak(server: Served, requests: int) -> dict[str, Any]:
    """Send so many requests, and read the server's memory at `MARKS` even steps.

    Raises:
        PrnGuardError: an answer was wrong, or none came.
    """
    seen = Seen()
    connections = [await connect(server.port) for _ in range(CONNECTIONS)]
    marks = [(0, server.resident_bytes())]
    began = time.perf_counter()
    for mark in range(1, MARKS + 1):
        part = requests * mark // MARKS - marks[-1][0]

        async def client(number: int, part: int = part) -> None:
            row = number % CLIENTS
            for _ in range(number, part, CONNECTIONS):
                seen.take(await connections[number].ask(TINY.requests[row]), row, TINY, 0.0)

        await asyncio.gather(*map(client, range(CONNECTIONS)))
        marks.append((marks[-1][0] + part, server.resident_bytes()))
    seconds = time.perf_counter() - began
    for connection in connections:
        connection.close()
    if seen.right != requests:
        raise PrnGuardError(f"Of {requests} requests {seen.right} were answered rightly: {seen}")
    late = np.array(marks[MARKS // 2 :], dtype=np.float64)
    slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0])
    return {
        "requests": requests,
        "requests_per_second": requests / seconds,
        "marks": [{"requests": count, "resident_bytes": size} for count, size in marks],
        "slope_bytes_per_request": slope,
    }


def render(result: Mapping[str, Any]) -> str:
    """The table of docs/scaling.md, in Markdown."""
    marks = [result["marks"][place] for place in SHOWN]
    shown = table(
        ("requests", *(f"{mark['requests']:,}" for mark in marks)),
        [("resident, MiB", *(f"{mark['resident_bytes'] / MIB:.1f}" for mark in marks))],
        left=1,
    )
    versions = ", ".join(f"{name} {found}" for name, found in result["versions"].items())
    note = (
        f"Over the second half the line through the marks rises by "
        f"{result['slope_bytes_per_request']:.1f} bytes a request; "
        f"{result['requests_per_second']:.0f} requests/s by {CONNECTIONS} clients, every answer "
        f"right. {versions} (commit {result['commit']}).\n"
    )
    return f"{shown}\n{note}"


if __name__ == "__main__":
    typer.run(main)
