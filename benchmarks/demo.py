"""Run the demonstration from nothing under several seeds, and publish its figures.

    .venv/bin/python -m benchmarks.demo --seeds 3

For each seed runs `training/demo/run.sh` in an empty folder and measures wall-clock seconds and the
peak memory of its largest process. Writes `benchmarks/results/demo.json`, and renders the table of
README.md from that file.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks.publishing import commit, publish
from prn_guard import console
from prn_guard.files import read_json, write_json
from training.evaluation.tables import rows_of

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "benchmarks" / "results" / "demo.json"
README: Final = ROOT / "README.md"


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ... to run.")] = 3,
) -> None:
    """Run, measure, publish."""
    runs = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory(prefix="prn-guard-demo-") as folder:
            seconds = _run(Path(folder), seed)
            runs.append(collect(Path(folder), seconds=seconds))
    # Over all runs: the system keeps one maximum for all children.
    write_json(RESULT, {"commit": commit(), "peak_mebibytes": _peak_of_children(), "runs": runs})
    publish(README, "demo", render(read_json(RESULT)))
    console.say(f"Written: {RESULT.relative_to(ROOT)}, and the figures of {README.name}.")


def collect(out: Path, *, seconds: float) -> dict[str, Any]:
    """The figures of a finished demonstration in `out`, without the points of the ROC curve."""
    metrics = read_json(out / "evaluation" / "metrics.json")
    record = read_json(out / "guard" / "guard.json")
    manifest = read_json(out / "guarded" / "manifest.json")
    del metrics["roc"]["false_positive_rate"], metrics["roc"]["true_positive_rate"]
    return {
        "seed": record["seed"],
        "seconds": round(seconds, 1),
        "bank": record["bank"],
        "synthetic": record["synthetic"],
        "rectifier": record["rectifier"],
        "stage_seconds": record["seconds"],
        "parity": manifest["parity"],
        "metrics": metrics,
    }


def render(result: Mapping[str, Any]) -> str:
    """The README's block of figures, in Markdown: the first run, and the spread of all."""
    runs = result["runs"]
    tables = [rows_of(run["metrics"]) for run in runs]
    lines = [
        f"| figure | %, seed 0 | 95 % interval | n | %, {len(runs)} seeds |",
        "|---|---:|---:|---:|---:|",
    ]
    for rows in zip(*tables, strict=True):
        text, value, interval, count = rows[0]
        values = sorted((row[1] for row in rows), key=float)
        lines.append(f"| {text} | {value} | {interval} | {count} | {values[0]} to {values[-1]} |")
    return "\n".join([*lines, "", _legend(result)]) + "\n"


def _legend(result: Mapping[str, Any]) -> str:
    runs: Sequence[Mapping[str, Any]] = result["runs"]
    metrics = runs[0]["metrics"]
    setting, threat = metrics["setting"], metrics["threat_model"]
    rates = [rate for run in runs for rate in run["bank"]["test_fooling_rates"]]
    banks = ", ".join(
        f"{run['bank']['members']} of {run['bank']['candidates']} candidates" for run in runs
    )
    differing = sum(
        run["parity"]["label_mismatches"] + run["parity"]["flag_mismatches"] for run in runs
    )
    inside = max(run["parity"]["inside_margin"] / run["parity"]["pictures"] for run in runs)
    return (
        f"LeNet on Fashion-MNIST, {threat['norm']} {threat['epsilon']:g}. Seeds draw everything "
        f"anew: LeNet, perturbations, guard, attackers. Perturbed-only figures try each of "
        f"{setting['held_out_perturbations']} held-out perturbations, of the family that the guard "
        f"was trained on, on every test picture. Adaptive: {threat['adaptive']}. Every "
        f"perturbation of every bank fools the undefended LeNet on {min(rates):.1%} to "
        f"{max(rates):.1%} of the test pictures (accepted: {banks}). Graph and torch modules were "
        f"compared on {runs[0]['parity']['pictures']:,} pictures a run: {differing} decisions "
        f"differ outside the margin band, which held at most {inside:.3%} of them. Measured on "
        f"{setting['hardware']}, torch {setting['versions']['torch']}, Python "
        f"{setting['versions']['python']}: {min(run['seconds'] for run in runs) / 60:.1f} to "
        f"{max(run['seconds'] for run in runs) / 60:.1f} minutes, at most "
        f"{result['peak_mebibytes'] / 1024:.1f} GiB (commit {result['commit']})."
    )


def _run(out: Path, seed: int) -> float:
    environment = os.environ | {
        "OUT": str(out),
        "SEED": str(seed),
        "PYTHON": sys.executable,
        "PRN_GUARD": str(Path(sys.executable).with_name("prn-guard")),
    }
    begin = time.monotonic()
    subprocess.run(["/bin/sh", "training/demo/run.sh"], cwd=ROOT, env=environment, check=True)
    return time.monotonic() - begin


def _peak_of_children() -> int:
    """Resident mebibytes of the largest child process so far; Linux counts in kibibytes."""
    return round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)


if __name__ == "__main__":
    typer.run(main)
