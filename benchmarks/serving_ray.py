"""The guard on a Ray cluster of two nodes, beside the server without Ray: answers, and their cost.

    .venv/bin/python -m benchmarks.serving_ray

Both nodes are processes of this machine with one core each, so that Ray has to put one of the two
replicas onto each. The guard is a graph of a few nodes, so that what is timed is everything but the
model. Clients, REST with the binary extension and pictures are the same for both. Writes
`benchmarks/results/serving_ray.json`, and its table into docs/scaling.md.
"""

import asyncio
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import typer

from benchmarks.publishing import commit, publish, table
from benchmarks.serving_client import connect, http, infer_request, outputs_of
from benchmarks.serving_process import served
from benchmarks.triton_server import free_port
from prn_guard import console
from prn_guard.errors import PrnGuardError
from prn_guard.files import read_json, write_json
from prn_guard.serve.settings import read_settings
from tests.prn_guard.tiny import tiny_manifest, tiny_model, tiny_spec, write_folder

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "benchmarks" / "results" / "serving_ray.json"
PAGE: Final = ROOT / "docs" / "scaling.md"
PICTURES: Final = 64
SECONDS: Final = 120.0

Answers = list[dict[str, npt.NDArray[Any]]]


def main(
    requests: Annotated[int, typer.Option(min=64, help="Timed, of each server.")] = 4000,
    clients: Annotated[int, typer.Option(min=1, help="That ask at once.")] = 16,
    out: Annotated[Path, typer.Option(help="The result file.")] = RESULT,
) -> None:
    """Measure, write down, publish."""
    with tempfile.TemporaryDirectory(prefix="prn-guard-ray-") as temporary:
        folder = tiny_folder(Path(temporary))
        with served(folder, "--no-grpc", "--threads", 1) as server:
            plain, alone = asyncio.run(_ask(server.port, requests, clients))
        with two_nodes(), on_ray(folder) as port:
            found, ray_row = asyncio.run(_ask(port, requests, clients))
            shares = asyncio.run(_seen(port))
    result = {
        "commit": commit(),
        "versions": {name: version(name) for name in ("ray", "uvicorn", "onnxruntime-gpu")},
        "requests": requests,
        "clients": clients,
        "answers_equal": _equal(plain, found),
        "pictures_by_replica": shares,
        "without_ray": alone,
        "with_ray": ray_row,
    }
    write_json(out, result)
    if out == RESULT:
        publish(PAGE, "serving_ray", render(read_json(out)))
    console.say(json.dumps(result))


def render(result: Mapping[str, Any]) -> str:
    """The table of docs/scaling.md, in Markdown."""
    rows = {"built-in server": "without_ray", "Ray Serve, two nodes, two replicas": "with_ray"}
    shown = table(
        ("server", "requests/s", "p50, ms", "p99, ms"),
        [
            (
                name,
                f"{result[key]['requests_per_second']:.0f}",
                f"{result[key]['p50_ms']:.1f}",
                f"{result[key]['p99_ms']:.1f}",
            )
            for name, key in rows.items()
        ],
        left=1,
    )
    versions = ", ".join(f"{name} {found}" for name, found in result["versions"].items())
    equal = "equal bit by bit" if result["answers_equal"] else "NOT equal"
    note = (
        f"{result['requests']:,} requests of {result['clients']} clients, a graph of a few nodes; "
        f"answers of both were {equal}. The replicas answered "
        f"{' and '.join(f'{count:,}' for count in result['pictures_by_replica'])} pictures. "
        f"{versions} (commit {result['commit']}).\n"
    )
    return f"{shown}\n{note}"


def tiny_folder(place: Path) -> Path:
    """The guard of the tests, as an artifact."""
    folder = place / "tiny"
    content = tiny_model().SerializeToString()
    write_folder(folder, content, tiny_manifest(tiny_spec(), content))
    return folder


@contextmanager
def two_nodes() -> Iterator[None]:
    """A cluster of two nodes with one core each, to which this process is connected."""
    from prn_guard.serve.ray_serve import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False},
    )
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


@contextmanager
def on_ray(folder: Path) -> Iterator[int]:
    """Serve `folder` by two replicas, one core each; the port."""
    from prn_guard.serve import ray_serve

    port = free_port()
    settings = read_settings(
        {"folder": folder, "engine": "ray", "devices": "cpu,cpu", "port": port, "stop_timeout": 5.0}
    )
    wanted, failures = threading.Event(), []

    def target() -> None:
        try:
            ray_serve.run(settings, wanted=wanted)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    try:
        asyncio.run(_until_ready(port, failures))
        yield port
    finally:
        wanted.set()
        thread.join(SECONDS)
    if failures:
        raise failures[0]


async def _until_ready(port: int, failures: list[BaseException]) -> None:
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends and not failures:
        try:
            connection = await connect(port)
            answer = await connection.ask(http("/v2/health/ready", method="GET"))
            connection.close()
            if answer.status == 200:
                return
        except OSError:
            pass
        await asyncio.sleep(0.1)
    raise PrnGuardError(f"Ray Serve did not become ready. {failures}")


async def _ask(port: int, requests: int, clients: int) -> tuple[Answers, dict[str, float]]:
    """Every picture's answer, and how fast `requests` of them were had by `clients` at a time."""
    pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, 8, 8, 3), dtype=np.uint8)
    bodies = [infer_request("tiny", pictures[row : row + 1]) for row in range(PICTURES)]
    answers: Answers = [{} for _ in bodies]
    took: list[float] = []

    async def client(number: int, count: int) -> None:
        connection = await connect(port)
        for turn in range(number, count, clients):
            began = time.perf_counter()
            answer = await connection.ask(bodies[turn % PICTURES])
            took.append(time.perf_counter() - began)
            if answer.status != 200:
                raise PrnGuardError(f"Answered with {answer.status}: {answer.body!r}")
            answers[turn % PICTURES] = outputs_of(answer)
        connection.close()

    await asyncio.gather(*(client(number, 8 * PICTURES) for number in range(clients)))
    took.clear()
    began = time.perf_counter()
    await asyncio.gather(*(client(number, requests) for number in range(clients)))
    seconds = time.perf_counter() - began
    p50, p99 = (1e3 * float(value) for value in np.percentile(took, (50, 99)))
    return answers, {"requests_per_second": requests / seconds, "p50_ms": p50, "p99_ms": p99}


async def _seen(port: int) -> list[int]:
    """Pictures that each replica has answered: the alarm of each counts its own."""
    connection = await connect(port)
    found = set()
    for _ in range(50):
        answer = await connection.ask(http("/v1/state", method="GET"))
        found.add(int(json.loads(answer.body)["alarm"]["seen"]))
    connection.close()
    return sorted(found)


def _equal(plain: Answers, found: Answers) -> bool:
    return all(
        one.keys() == other.keys()
        and all(one[name].tobytes() == other[name].tobytes() for name in one)
        for one, other in zip(plain, found, strict=True)
    )


if __name__ == "__main__":
    typer.run(main)
