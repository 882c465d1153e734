"""Speed and memory of a training step under our Jacobian penalty, beside its authors' own.

    pip download --no-deps cebra==0.6.1
    unzip cebra-0.6.1-py3-none-any.whl cebra/models/jacobian_regularizer.py
    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.jacobian_penalty measure --peer PEER

PEER is `cebra/models/jacobian_regularizer.py`: the package cebra carries the public file of
facebookresearch/jacobian_regularizer (MIT), which is not in the package index by itself. It is used
as it is; without `--peer`, the same is computed from the paper's formula (`jacobian_peer`). What a
step is, stands in `jacobian_steps`. Steps are timed in turn in one process; memory is that of a
process of its own for each case. Writes `benchmarks/results/jacobian_penalty.json` and the tables
in docs/hardening.md.
"""

import json
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.jacobian_peer import EXACT, Peer, load_peer
from benchmarks.jacobian_steps import (
    Passes,
    Step,
    batch,
    gradient,
    network,
    our_step,
    peer_step,
)
from benchmarks.peak_memory import forget_peak, peak_mib
from benchmarks.publishing import ROOT, commit, publish
from prn_guard.files import read_json, write_json
from prn_guard.nn.target import Target
from training.allocator import keep_freed_memory
from training.jacobians import basis_directions, squared_norms
from training.setting import hardware

RESULT: Final = ROOT / "benchmarks" / "results" / "jacobian_penalty.json"
PAGE: Final = ROOT / "docs" / "hardening.md"
OURS: Final = "ours"
PASSES: Final[dict[str, tuple[Passes, ...]]] = {
    "LeNet": ("evaluation",),
    "ResNet-20": ("both", "evaluation", "training"),
}
"""LeNet is the same in both modes, so that one pass is all there is."""
SPOKEN: Final[dict[Passes, str]] = {
    "both": "a pass in each mode",
    "evaluation": "one pass, evaluation mode",
    "training": "one pass, training mode",
}
TIMED: Final = (
    ("LeNet", 100, 1, 100),
    ("LeNet", 100, 0, 30),
    ("ResNet-20", 128, 1, 15),
    ("ResNet-20", 128, 0, 7),
)
"""Network, pictures, projections (0 is exact), rounds."""
COMPARED: Final = (("LeNet", 32), ("ResNet-20", 32))
MEASURED: Final = ((128, 1), (512, 1), (128, 0))
"""Pictures and projections of the steps of ResNet-20 whose memory is taken."""
MICRO_BATCHES: Final = (None, 128, 32)

app = typer.Typer(add_completion=False)


@app.command()
def measure(
    peer: Annotated[Path | None, typer.Option(help="File with the class JacobianReg.")] = None,
    effort: Annotated[float, typer.Option(help="Times the rounds; below 1 to try.")] = 1.0,
) -> None:
    """Measure, write the result, publish the table."""
    keep_freed_memory()
    torch.set_num_threads(1)
    # The public file calls an overload that torch deprecated; it works.
    warnings.filterwarnings("ignore", "This overload of addcdiv is deprecated")
    loaded = load_peer(peer)
    result = {
        "peer": loaded.name,
        "hardware": hardware(),
        "commit": commit(),
        "versions": {"torch": version("torch")},
        "agreement": [_shown(agreement(name, count, loaded)) for name, count in COMPARED],
        "speed": [
            _shown(row)
            for name, count, projections, rounds in TIMED
            for row in speeds(name, count, projections, loaded, max(2, round(rounds * effort)))
        ],
        "memory": [_shown(_memory(*case, peer)) for case in _memory_cases()],
    }
    write_json(RESULT, result)
    publish(PAGE, "jacobian_penalty", render(read_json(RESULT)))


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    print(row, flush=True)  # noqa: T201
    return row


def agreement(name: str, count: int, peer: Peer) -> dict[str, Any]:
    """How far the exact penalty, its gradient and that of a whole step differ, relatively."""
    values, gradients, steps = [], [], []
    for ours in (True, False):
        target = network(name)
        images, labels = batch(target, count)
        value, by_weights = _penalty(target, images, peer, ours=ours)
        values.append(value)
        gradients.append(by_weights)
        step = _step(target, images, labels, OURS if ours else PASSES[name][0], 0, peer, None)
        step()
        steps.append(gradient(target.classifier))
    return {
        "network": name,
        "pictures": count,
        "values": values,
        "value": abs(values[0] - values[1]) / abs(values[1]),
        "gradient": _apart(*gradients),
        "gradient_of_step": _apart(*steps),
    }


def _penalty(target: Target, images: Tensor, peer: Peer, *, ours: bool) -> tuple[float, Tensor]:
    target.classifier.requires_grad_()
    watched = images.detach().requires_grad_()
    logits = target(watched)
    if ours:
        norms = squared_norms(watched, logits, basis_directions(*logits.shape))
        penalty = norms.sum() / (2 * len(images))
    else:
        penalty = peer.build(EXACT)(watched, logits)
    target.classifier.zero_grad()
    penalty.backward()  # type: ignore[no-untyped-call]
    return float(penalty.detach()), gradient(target.classifier)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def speeds(
    name: str, count: int, projections: int, peer: Peer, rounds: int
) -> list[dict[str, Any]]:
    """Seconds of steps, all contestants in turn in every round: a row for each use of the peer."""
    steps = {}
    for contestant in (OURS, *PASSES[name]):
        target = network(name)
        steps[contestant] = _step(
            target, *batch(target, count), contestant, projections, peer, None
        )
        steps[contestant]()
    seconds: dict[str, list[float]] = {contestant: [] for contestant in steps}
    for _ in range(rounds):
        for contestant, step in steps.items():
            begin = time.perf_counter()
            step()
            seconds[contestant].append(time.perf_counter() - begin)
    facts = {"network": name, "pictures": count, "projections": projections, "rounds": rounds}
    return [
        facts
        | {
            "passes": passes,
            "peer_ms": 1000 * float(np.median(seconds[passes])),
            "ours_ms": 1000 * float(np.median(seconds[OURS])),
            "times_faster": _spread(np.array(seconds[passes]) / np.array(seconds[OURS])),
        }
        for passes in PASSES[name]
    ]


def _spread(ratios: np.ndarray[Any, Any]) -> dict[str, float]:
    low, middle, high = np.quantile(ratios, (0.05, 0.5, 0.95))
    return {"p5": float(low), "median": float(middle), "p95": float(high)}


def _step(
    target: Target,
    images: Tensor,
    labels: Tensor,
    contestant: str,
    projections: int,
    peer: Peer,
    micro_batch: int | None,
) -> Step:
    if contestant == OURS:
        return our_step(target, images, labels, projections=projections, micro_batch=micro_batch)
    (passes,) = (passes for passes in SPOKEN if passes == contestant)
    return peer_step(target, images, labels, peer=peer, projections=projections, passes=passes)


def _memory_cases() -> list[tuple[int, int, str, int | None]]:
    contestants = [(OURS, size) for size in MICRO_BATCHES]
    contestants += [(passes, None) for passes in ("both", "evaluation")]
    return [
        (count, projections, contestant, size)
        for count, projections in MEASURED
        for contestant, size in contestants
    ]


def _memory(
    count: int, projections: int, contestant: str, micro_batch: int | None, peer: Path | None
) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.jacobian_penalty", "one"]
    command += ["--count", str(count), "--projections", str(projections)]
    command += ["--contestant", contestant]
    if micro_batch is not None:
        command += ["--micro-batch", str(micro_batch)]
    if peer is not None:
        command += ["--peer", str(peer.resolve())]
    done = subprocess.run(  # noqa: S603
        command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    row: dict[str, Any] = json.loads(done.stdout)
    return row


@app.command()
def one(
    count: Annotated[int, typer.Option()],
    projections: Annotated[int, typer.Option()],
    contestant: Annotated[str, typer.Option()],
    micro_batch: Annotated[int | None, typer.Option()] = None,
    peer: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Take one step with ResNet-20 and print what this process's memory grew by."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "This overload of addcdiv is deprecated")
    target, loaded = network("ResNet-20"), load_peer(peer)
    images, labels = batch(target, count)
    # What the first step of a process loads for good is not counted.
    _step(target, images[:2], labels[:2], contestant, projections, loaded, micro_batch)()
    step = _step(target, images, labels, contestant, projections, loaded, micro_batch)
    forget_peak()
    before = peak_mib()
    step()
    facts = {"pictures": count, "projections": projections, "contestant": contestant}
    memory = {"before_mib": before, "peak_mib": peak_mib()}
    print(json.dumps({**facts, "micro_batch": micro_batch, **memory}))  # noqa: T201


def render(result: dict[str, Any]) -> str:
    """Both tables as markdown, and how far the values agree."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    agreed = "; ".join(
        f"{row['network']} {row['value']:.0e}, {row['gradient']:.0e} and "
        f"{row['gradient_of_step']:.0e}"
        for row in result["agreement"]
    )
    note = (
        f"Peer: {result['peer']}. Medians of steps taken in turn, in brackets 5 % to 95 % of the "
        f"rounds; {result['hardware']}, one thread; {versions} (commit {result['commit']}). "
        "Relative differences of the exact penalty, of its gradient by the weights and of a whole "
        f"step's gradient: {agreed}."
    )
    return "\n".join([*_speed_table(result), "", *_memory_table(result), "", note]) + "\n"


def _speed_table(result: dict[str, Any]) -> list[str]:
    heading = (
        "| network, batch | projections | peer's passes | peer, ms | ours, ms | times faster | aim "
        "| rounds |"
    )
    lines = [heading, "|---|---|---|---:|---:|---:|---:|---:|"]
    for row in result["speed"]:
        faster = row["times_faster"]
        lines.append(
            f"| {row['network']}, {row['pictures']} | {row['projections'] or 'exact'} "
            f"| {SPOKEN[row['passes']]} | {row['peer_ms']:.1f} | {row['ours_ms']:.1f} "
            f"| {faster['median']:.2f} ({faster['p5']:.2f}-{faster['p95']:.2f}) | 1.0 "
            f"| {row['rounds']} |"
        )
    return lines


def _memory_table(result: dict[str, Any]) -> list[str]:
    lines = [
        "| ResNet-20, batch | projections | contestant | micro-batch | MiB of a step |",
        "|---:|---|---|---:|---:|",
    ]
    for row in result["memory"]:
        ours = row["contestant"] == OURS
        named = OURS if ours else f"peer, {SPOKEN[row['contestant']]}"
        lines.append(
            f"| {row['pictures']} | {row['projections'] or 'exact'} | {named} "
            f"| {(row['micro_batch'] or 'none') if ours else ''} "
            f"| {row['peak_mib'] - row['before_mib']:.0f} |"
        )
    return lines


if __name__ == "__main__":
    app()
