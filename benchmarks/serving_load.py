"""How much of a bare onnxruntime loop is left behind the server, and how long requests take.

    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.serving_load

EfficientNet-Lite0 behind a rectifier with random weights, 224 x 224 pixels of 8 bits, one picture a
request, REST with the binary extension over loopback. Server, clients and bare loop share the
machine's cores; they take turns, so that what drifts meets all alike:

- Throughput: clients ask again as soon as they are answered. The bare loop then runs batches of the
  very sizes that the server had formed, in that order, on onnxruntime's default options.
- Latency: requests arrive at a share of that throughput, whether or not earlier ones are answered,
  and are timed from when they were due: at random (Poisson, seed 0), or as many cameras send them,
  each at its own regular times. Beside it stands what the very same arrivals would have met in a
  queue before a session that takes as long, were everything else free.

Every answer is compared with the bare session's on the same picture. Writes
`benchmarks/results/serving_load.json`, and its table into docs/scaling.md.
"""

import asyncio
import gc
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from benchmarks.publishing import commit, publish, table
from benchmarks.serving_arrivals import arrivals, queue_alone
from benchmarks.serving_bare import PICTURES, BareLoop
from benchmarks.serving_client import Connection, connect
from benchmarks.serving_process import PROBED, Served, served
from prn_guard import console
from prn_guard.files import read_json, write_json

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "benchmarks" / "results" / "serving_load.json"
PAGE: Final = ROOT / "docs" / "scaling.md"
LOADS: Final = (("Poisson", 0.3), ("Poisson", 0.5), ("Poisson", 0.7), ("cameras", 0.7))
WARM_UP: Final = 3.0
LEAST_SHARE: Final = 0.8
MOST_TAIL: Final = 3.0


def main(
    clients: Annotated[int, typer.Option(min=1, help="That ask at once.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Of throughput and bare loop.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Of each.")] = 12.0,
    load_seconds: Annotated[float, typer.Option(min=1, help="Of each load.")] = 25.0,
    artifact: Annotated[Path | None, typer.Option(help="The guard; made where left out.")] = None,
    out: Annotated[Path, typer.Option(help="The result file.")] = RESULT,
) -> None:
    """Measure, write down, publish."""
    with tempfile.TemporaryDirectory(prefix="prn-guard-load-") as temporary:
        folder = artifact or _artifact(Path(temporary))
        bare = BareLoop(folder)
        notes = Path(temporary) / "batches"
        gc.freeze()
        with served(folder, "--batches", notes, command=PROBED) as server:
            runs = [measure_round(server, bare, notes, clients, seconds) for _ in range(rounds)]
            rate = float(np.median([run["server_pictures_per_second"] for run in runs]))
            rows = [
                measure_load(server, bare, notes, kind, share, rate, load_seconds)
                for kind, share in LOADS
            ]
    from training.setting import hardware

    write_json(
        out,
        {
            "commit": commit(),
            "hardware": hardware(),
            "versions": {
                name: version(name) for name in ("onnxruntime-gpu", "uvicorn", "fastapi", "numpy")
            },
            "clients": clients,
            "share": float(np.median([run["share"] for run in runs])),
            "rounds": runs,
            "loads": rows,
        },
    )
    if out == RESULT:
        publish(PAGE, "serving_load", render(read_json(out)))
    console.say(render(read_json(out)))


def render(result: Mapping[str, Any]) -> str:
    """The tables of docs/scaling.md, in Markdown."""
    rounds = result["rounds"]
    throughput = table(
        ("round", "server, pictures/s", "bare loop, pictures/s", "share", "mean batch",
         "the session ran", "event loop's processor time, ms a picture", "cores that others took"),
        [
            (
                str(number),
                f"{run['server_pictures_per_second']:.1f}",
                f"{run['bare_pictures_per_second']:.1f}",
                f"{run['share']:.1%}",
                f"{run['mean_batch']:.1f}",
                f"{run['session_busy']:.1%}",
                f"{run['loop_ms']:.2f}",
                f"{run['others_cores']:.2f}",
            )
            for number, run in enumerate(rounds, start=1)
        ],
        left=1,
    )  # fmt: skip
    latency = table(
        ("arrivals", "load", "requests/s", "p50, ms", "p95, ms", "p99, ms", "p99 / p50",
         "of the queue alone", "mean batch", "cores that others took", "n"),
        [
            (
                row["arrivals"],
                f"{row['load']:.0%}",
                f"{row['requests_per_second']:.1f}",
                f"{row['p50_ms']:.1f}",
                f"{row['p95_ms']:.1f}",
                f"{row['p99_ms']:.1f}",
                f"{row['p99_ms'] / row['p50_ms']:.2f}",
                f"{row['queue_p99_ms'] / row['queue_p50_ms']:.2f}",
                f"{row['mean_batch']:.1f}",
                f"{row['others_cores']:.2f}",
                str(row["requests"]),
            )
            for row in result["loads"]
        ],
        left=1,
    )  # fmt: skip
    versions = ", ".join(f"{name} {found}" for name, found in result["versions"].items())
    note = (
        f"{result['clients']} clients; {result['hardware']}, which server, clients and bare loop "
        f"share; {versions} (commit {result['commit']}). The median share is "
        f"{result['share']:.1%} (aim: at least {LEAST_SHARE:.0%}); aim of p99 / p50 at 70 % load: "
        f"at most {MOST_TAIL:g}. Load is a share of the median throughput.\n"
    )
    return "\n".join([throughput, latency, note])


def _artifact(folder: Path) -> Path:
    from benchmarks.serving_artifact import write_efficientnet_lite0

    return write_efficientnet_lite0(folder)


def measure_round(
    server: Served,
    bare: BareLoop,
    notes: Path,
    clients: int,
    seconds: float,
    *,
    warm_up: float = WARM_UP,
) -> dict[str, Any]:
    """Throughput of the server, then of the bare loop on the same batches."""
    before, began = server.others_seconds(), time.monotonic()
    found = asyncio.run(_closed_loop(server, bare, clients, seconds, warm_up))
    begun, ended = found["window"]
    batches = [batch for batch in _noted(notes) if begun <= batch[0] < ended]
    sizes = [int(size) for _, size, _ in batches]
    bare_rate = bare.rate(sizes)
    rate = found["answered"] / (ended - begun)
    others = (server.others_seconds() - before) / (time.monotonic() - began)
    return {
        "others_cores": others,
        "seconds": ended - begun,
        "server_pictures_per_second": rate,
        "bare_pictures_per_second": bare_rate,
        "share": rate / bare_rate,
        "mean_batch": float(np.mean(sizes)),
        "session_busy": sum(spent for _, _, spent in batches) / (ended - begun),
        "loop_ms": 1e3 * found["loop_seconds"] / found["answered"],
        "batches": {str(size): sizes.count(size) for size in sorted(set(sizes))},
    }


def _noted(notes: Path) -> list[tuple[float, float, float]]:
    """When each batch began, its pictures, its seconds."""
    lines = [line.split() for line in notes.read_text(encoding="ascii").splitlines()]
    return [(float(began), float(size), float(spent)) for began, size, spent in lines]


async def _closed_loop(
    server: Served, bare: BareLoop, clients: int, seconds: float, warm_up: float
) -> dict[str, Any]:
    """Clients that ask again at once; what they were answered after the warm-up is counted."""
    begun = time.monotonic() + warm_up
    ended = begun + seconds
    answered = 0

    async def client(number: int) -> None:
        nonlocal answered
        row = number % PICTURES
        connection = await connect(server.port)
        while time.monotonic() < ended:
            answer = await connection.ask(bare.requests[row])
            if begun <= time.monotonic() < ended:
                answered += 1
        bare.check(row, answer)
        connection.close()

    async def loop_seconds() -> float:
        await asyncio.sleep(begun - time.monotonic())
        before = server.loop_seconds()
        await asyncio.sleep(ended - time.monotonic())
        return server.loop_seconds() - before

    spent, *_ = await asyncio.gather(loop_seconds(), *map(client, range(clients)))
    return {"window": (begun, ended), "answered": answered, "loop_seconds": spent}


def measure_load(
    server: Served,
    bare: BareLoop,
    notes: Path,
    kind: str,
    load: float,
    full: float,
    seconds: float,
) -> dict[str, Any]:
    """How long requests take that arrive as `arrivals` has them, at `load * full` a second."""
    return asyncio.run(_open_loop(server, bare, notes, kind, load, full, seconds))


async def _open_loop(
    server: Served,
    bare: BareLoop,
    notes: Path,
    kind: str,
    load: float,
    full: float,
    seconds: float,
) -> dict[str, Any]:
    """Requests at their times, each on a connection that is free or a new one."""
    rate = full * load
    offsets = arrivals(kind, rate, seconds)
    due = time.monotonic() + 0.1 + offsets
    free: list[Connection] = []
    took: list[float] = []

    async def one(number: int) -> None:
        connection = free.pop() if free else await connect(server.port)
        row = number % PICTURES
        answer = await connection.ask(bare.requests[row])
        took.append(time.monotonic() - due[number])
        free.append(connection)
        if number % PICTURES == 0 or answer.status != 200:
            bare.check(row, answer)

    before, begun = server.others_seconds(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(len(due)):
            await asyncio.sleep(max(0.0, due[number] - time.monotonic()))
            group.create_task(one(number))
    others = (server.others_seconds() - before) / (time.monotonic() - begun)
    batches = np.array([batch[1:] for batch in _noted(notes) if batch[0] >= begun])
    for connection in free:
        connection.close()
    # Of a batch: fixed + each * pictures seconds.
    terms = np.column_stack([np.ones(len(batches)), batches[:, 0]])
    fixed, each = np.linalg.lstsq(terms, batches[:, 1], rcond=None)[0]
    alone = queue_alone(offsets, float(fixed), float(each))
    return {
        "arrivals": kind,
        "load": load,
        "requests_per_second": rate,
        "requests": len(due),
        **{f"p{part}_ms": 1e3 * float(np.percentile(took, part)) for part in (50, 95, 99)},
        **{f"queue_p{part}_ms": 1e3 * float(np.percentile(alone, part)) for part in (50, 95, 99)},
        "batch_fixed_ms": 1e3 * float(fixed),
        "batch_each_ms": 1e3 * float(each),
        "mean_batch": float(batches[:, 0].mean()),
        "connections": len(free),
        "others_cores": others,
    }


if __name__ == "__main__":
    typer.run(main)
