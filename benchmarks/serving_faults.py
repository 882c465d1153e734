"""Faults, each against a real server while steady clients check every answer that they get.

    .venv/bin/python -m benchmarks.serving_faults

Four clients ask the tiny guard of the tests as fast as they are answered, and compare every label,
score, flag and logit with float64 NumPy, bit by bit, before, during and after each fault. The
server is `prn-guard serve` in a process of its own; where its engine has to be slow or to fail, its
engine alone is wrapped (`benchmarks/serving_server.py`). The clock that jumps is `time.time` of the
server's process: it is what Python code reads, while the kernel's clock, which needs a privilege to
be set, stays.

Writes `benchmarks/results/serving_faults.json`, and its table into docs/scaling.md; ends with code
1 if a steady client did not get what it must.
"""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks import serving_misdeeds as misdeeds
from benchmarks.publishing import commit, publish, table
from benchmarks.serving_process import COMMAND, PROBED, Served, served
from benchmarks.serving_ray import tiny_folder
from benchmarks.serving_schema import fuzz, fuzz_binary
from benchmarks.serving_steady import AROUND, DROP_IN, TINY, Questions, Seen, steady, until_told
from prn_guard import console
from prn_guard.files import read_json, write_json
from tests.export.small_artifact import DROP_IN as DROP_IN_TENSOR
from tests.export.small_artifact import write_small_artifact

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "benchmarks" / "results" / "serving_faults.json"
PAGE: Final = ROOT / "docs" / "scaling.md"

USUAL: Final = "max_body_bytes = 33554432\nbody_timeout = 1.0\nheader_timeout = 1.0\n"
NARROW: Final = "max_queue = 4\nmax_batch = 1\n"
POISON: Final = 255
NANS: Final = ("3 x 400",)

Misdeed = Callable[[int], Awaitable[list[str]]]


@dataclass(frozen=True)
class Fault:
    """One fault, and what whoever commits it must be told."""

    name: str
    misdeed: Misdeed
    told: tuple[str, ...]


FAULTS: Final = (
    Fault(
        "killed in the middle of its body", misdeeds.killed_in_its_body, ("nothing: it was gone",)
    ),
    Fault("slow: a body byte by byte", misdeeds.slow, ("1 x 408",)),
    Fault("20 MB of garbage, to infer and classify", misdeeds.garbage, ("1 x 400", "1 x 413")),
    Fault("30 MB of JSON", misdeeds.much_json, ("1 x 413",)),
    Fault("4 MiB of nested JSON", misdeeds.most_json, ("1 x 400",)),
    Fault("PNG of 10,000 x 10,000 in 12 KB", misdeeds.large_picture, ("1 x 413",)),
    Fault("chunked body without end", misdeeds.endless, ("1 x 413",)),
    Fault("malformed binary headers", misdeeds.malformed_header, ("16 x 400",)),
    Fault("wrong shapes, datatypes, numbers", misdeeds.wrong_shapes, ("17 x 400", "1 x 413")),
)


def main(
    examples: Annotated[int, typer.Option(min=1, help="Of each operation's schema.")] = 200,
    out: Annotated[Path, typer.Option(help="The result file.")] = RESULT,
) -> None:
    """Commit every fault, write down, publish."""
    with tempfile.TemporaryDirectory(prefix="prn-guard-faults-") as temporary:
        place = Path(temporary)
        rows = [*usual_faults(place / "a"), *engine_faults(place / "b"), stopped(place / "c")]
        with served(_folder(place / "d"), "--no-grpc") as server:
            schema = fuzz(server.port, examples)
            binary = asyncio.run(fuzz_binary(server.port, 20 * examples))
    write_json(out, {"commit": commit(), "faults": rows, "schema": schema, "binary": binary})
    if out == RESULT:
        publish(PAGE, "serving_faults", render(read_json(out)))
    console.say(render(read_json(out)))
    sys.exit(
        0
        if all(row["passed"] for row in rows) and not schema["unexpected"] + binary["unexpected"]
        else 1
    )


def render(result: Mapping[str, Any]) -> str:
    """The table of docs/scaling.md, in Markdown."""
    columns = ("fault", "its client was told", "the others: right", "wrong or lost",
               "told to come again", "longest, ms")  # fmt: skip
    faults = table(
        columns,
        [
            (
                row["fault"],
                ", ".join(row["told"]),
                f"{row['others']['right']:,}",
                str(sum(row["others"][name] for name in ("wrong", "failed", "lost"))),
                str(row["others"]["told_to_wait"]),
                f"{row['others']['longest_ms']:.0f}",
            )
            for row in result["faults"]
        ],
        left=2,
    )
    schema, binary = result["schema"], result["binary"]
    note = (
        f"The REST schema, fuzzed by schemathesis {schema['version']}: {schema['requests']:,} "
        f"requests to {schema['operations']} operations, answered with {_counts(schema)}; "
        f"{len(schema['unexpected'])} of them 500 or not as documented. Infer requests with the "
        f"binary extension, damaged at random: {binary['requests']:,}, answered with "
        f"{_counts(binary)}; {len(binary['unexpected'])} of them neither right nor refused "
        f"(commit {result['commit']}).\n"
    )
    return f"{faults}\n{note}"


def _counts(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} x {status}" for status, count in found["statuses"].items())


def usual_faults(place: Path) -> list[dict[str, Any]]:
    """What clients do to an ordinary server."""
    config = _config(place, USUAL)
    with served(_folder(place), "--no-grpc", "--config", config) as server:
        rows = [asyncio.run(commit_fault(server, fault)) for fault in FAULTS]
    drop_in = write_small_artifact(place / "drop-in", tensor=DROP_IN_TENSOR)
    with served(drop_in, "--no-grpc") as server:
        fault = Fault("NaN and infinity, to a model of float32", misdeeds.not_a_number, NANS)
        return [*rows, asyncio.run(commit_fault(server, fault, DROP_IN))]


def engine_faults(place: Path) -> list[dict[str, Any]]:
    """What happens to the engine, and to the clock."""
    folder = _folder(place)
    probe = ("--poison", POISON)
    with served(folder, *probe, command=PROBED) as server:
        poisoned = Fault("worker exception", misdeeds.poison, ("10 x 500",))
        rows = [
            asyncio.run(commit_fault(server, poisoned)),
            asyncio.run(commit_fault(server, jump(server))),
        ]
    slow = ("--seconds", 0.02, "--config", _config(place, NARROW))
    with served(folder, *slow, command=PROBED) as server:
        full = asyncio.run(commit_fault(server, Fault("queue full", misdeeds.queue_full, ())))
    refused = any(told.endswith("x 503") for told in full["told"])
    only = all(told.endswith(("x 503", "x 200")) for told in full["told"])
    return [*rows, full | {"passed": full["passed"] and refused and only}]


def stopped(place: Path) -> dict[str, Any]:
    """SIGTERM while clients ask as fast as they can."""
    with served(_folder(place), "--no-grpc", command=COMMAND, stop=False) as server:
        seen = Seen()

        async def under_load() -> None:
            asking = asyncio.create_task(until_told(server.port, seen))
            while seen.right < 100:
                await asyncio.sleep(0.005)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(asking, 30)

        asyncio.run(under_load())
        code = server.process.wait(30)
    return _row("SIGTERM under load", [f"exit code {code}"], ("exit code 0",), seen)


def jump(server: Served) -> Fault:
    """The clock jumps a day ahead, then two back."""

    async def there_and_back(port: int) -> list[str]:
        del port
        for name in (signal.SIGUSR1, signal.SIGUSR2):
            server.process.send_signal(name)
            await asyncio.sleep(0.2)
        return ["nothing"]

    return Fault("clock a day ahead, then a day back", there_and_back, ("nothing",))


async def commit_fault(
    server: Served, fault: Fault, questions: Questions = TINY, *, around: int = AROUND
) -> dict[str, Any]:
    """One fault among steady clients: what was told to whom, and whether that is as it must be."""
    async with steady(server.port, questions, around=around) as seen:
        told = await asyncio.wait_for(fault.misdeed(server.port), 60)
    return _row(fault.name, told, fault.told or tuple(told), seen)


def _row(name: str, told: list[str], expected: tuple[str, ...], seen: Seen) -> dict[str, Any]:
    return {
        "fault": name,
        "told": told,
        "others": seen.to_json(),
        "passed": told == list(expected) and seen.unharmed,
    }


def _folder(place: Path) -> Path:
    place.mkdir(exist_ok=True)
    return place / "tiny" if (place / "tiny").exists() else tiny_folder(place)


def _config(place: Path, text: str) -> Path:
    place.mkdir(exist_ok=True)
    path = place / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    typer.run(main)
