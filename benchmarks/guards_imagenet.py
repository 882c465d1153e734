"""A guard of EfficientNet-Lite0 at 224 x 224, in a budget of two processor cores.

    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.guards_imagenet

Fitted on 1,000 training pictures of ImageNet, one a class, which is few: crops, flips and the
frozen target's own labels stretch them. Measured on 700 validation pictures, which decide nothing.
There are no rounds of attacks on the whole guard: each would take ten minutes here. `--paper` fits
the paper's architecture instead, which wants a GPU. Resumes from `runs/guards`; writes
`benchmarks/results/guards_imagenet.json` and its tables in docs/results.md.
"""

from typing import Annotated, Final

import torch
import typer

from benchmarks.guarded import LINF_224, fitted, imagenet
from benchmarks.guards_measured import (
    FIGURES,
    Measurement,
    collect,
    made_elsewhere,
    measured,
    results_of,
)
from benchmarks.guards_table import render
from benchmarks.publishing import ROOT, publish
from prn_guard.files import read_json, write_json
from training.allocator import keep_freed_memory
from training.evaluation.survey import Entry
from training.guard.request import FitOptions

RESULT: Final = ROOT / "benchmarks" / "results" / "guards_imagenet.json"
PAGE: Final = ROOT / "docs" / "results.md"
EPOCHS: Final = 12
FAMILIES: Final = (
    Entry("data-free", steps=200),
    Entry("perlin"),
    Entry("gabor"),
)
"""Other families that two cores craft at this size in minutes."""
ATTACKS: Final = ("expected guard", "rectifier", "evade, weight 1")
STEPS: Final = 60


def main(
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of the guard.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Of each attack on the guard.")] = STEPS,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's architecture.")] = False,
) -> None:
    """Fit, measure, write the result, publish the tables."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    classifier = imagenet()
    name = "paper" if paper else "compact"
    options = FitOptions(
        architecture=name, epochs=EPOCHS, rounds=0, seed=seed,
        members=LINF_224.criteria.members, held_out=LINF_224.criteria.held_out,
    )  # fmt: skip
    folder, origin = fitted(name, classifier, LINF_224, options=options)
    plan = Measurement(
        elsewhere=made_elsewhere("imagenet", (3, 224, 224)), other_norm={}, judged=700,
        steps=steps, attacks=ATTACKS, families=FAMILIES, radii=(LINF_224.epsilon,), checks=False,
        # Its depthwise convolutions are slower in bfloat16 on a CPU.
        precision="float32",
    )  # fmt: skip
    figures = measured(folder, classifier, LINF_224, plan)
    write_json(results_of(folder) / FIGURES, {"row": name, **origin, **figures})
    collect(classifier, RESULT, threads=threads)
    publish(PAGE, "guards_imagenet", render(read_json(RESULT)))


if __name__ == "__main__":
    typer.run(main)
