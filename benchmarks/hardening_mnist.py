"""MNIST: Jacobian regularisation as a post-processing phase, beside its comparators.

    .venv/bin/python -m benchmarks.hardening_mnist --mnist MNIST

Tables 1 to 3 of Jakubovitz and Giryes 2018 again, with half the channels and a quarter of the
hidden units of their network, which has 3.3 million weights, and without its dropout. Weights of
penalties do not carry over: of each method's grid the largest is taken whose validation accuracy
(2,000 pictures of the training set) is at least `LEAST_ACCURACY`, so that methods are compared at
about equal accuracy. Figures are on test pictures, which decide nothing.
Resumes from `runs/hardening`; writes `benchmarks/results/hardening_mnist.json` and the table in
docs/hardening.md.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from torch import nn

from benchmarks.hardened import WORK, Row, hardened, origin
from benchmarks.hardening_lenet import DATASETS
from benchmarks.publishing import ROOT, publish, table
from prn_guard.contract import InputSpec
from prn_guard.errors import DataError
from prn_guard.files import read_json, write_json
from prn_guard.nn.target import Target, state_digest
from training.allocator import keep_freed_memory
from training.attacks.subject import for_attacks, parted
from training.datasets import NamedPictures, load_pictures
from training.evaluation.comparison import Network, compare
from training.hardening.job import MethodOptions
from training.hardening.recipe import Recipe
from training.hardening.registry import METHODS

RESULT: Final = ROOT / "benchmarks" / "results" / "hardening_mnist.json"
PAGE: Final = ROOT / "docs" / "hardening.md"
PICTURES: Final = 20_000
"""Of the training set, evenly spaced: what two processor cores have time for."""
FOLDER: Final = WORK / "MNIST-post-processing"
LEAST_ACCURACY: Final = 0.984
"""That of Jacobian regularisation in the paper's Table 3 is 98.44 %."""
EPSILON: Final = 0.1
"""linf, of FGSM examples; the paper does not state its own."""
SHARE: Final = 0.3
"""Of adversarial pictures in a mini-batch, likewise."""
BASE: Final = "no defense"
SCRATCH: Final = Recipe(
    optimizer="adam", epochs=8, batch_size=100, learning_rate=0.002, drops=(0.5, 0.75)
)
GRIDS: Final[dict[str, tuple[float, ...]]] = {
    "input-gradient": (0.5, 2.5, 12.5),
    "cross-lipschitz": (0.002, 0.008, 0.04),
    "jacobian-post": (0.1, 0.5, 1.5, 5.0),
}
NAMES: Final = {
    "input-gradient": "input gradient",
    "cross-lipschitz": "cross-Lipschitz",
    "jacobian-post": "Jacobian",
}
PUBLISHED: Final = {
    BASE: (99.08, 0.2067),
    "adversarial training": (None, 0.2238),
    "input gradient": (99.44, 0.2403),
    "input gradient, adversarial": (None, 0.2349),
    "input gradient, from scratch": (99.25, 0.2343),
    "cross-Lipschitz": (98.91, 0.2999),
    "cross-Lipschitz, adversarial": (None, 0.3238),
    "cross-Lipschitz, from scratch": (None, 0.2903),
    "Jacobian": (98.44, 0.3424),
    "Jacobian, adversarial": (98.0, 0.3629),
    "Jacobian, from scratch": (98.35, 0.3289),
}
"""Test accuracy in per cent, where the copy of the paper at hand is legible, and rho_adv."""
COLUMNS: Final = (
    "method", "test accuracy, % (95 %)", "paper", "rho_adv (95 %)", "paper",
    "mean Jacobian norm, clean / DeepFool", "UER at linf 0.2, %",
)  # fmt: skip


def untrained() -> Target:
    """Two convolutions with pooling and two linear layers, with random weights."""
    dataset = DATASETS["MNIST"]
    spec = InputSpec(
        channels=1,
        height=28,
        width=28,
        mean=(dataset.mean,),
        std=(dataset.std,),
        channel_order="gray",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(49 * 32, 256), nn.ReLU(), nn.Linear(256, 10),
        )  # fmt: skip
    return Target(network, spec)


def _post(method: str, weight: float | None, share: float | None = None) -> Row:
    return Row(
        method=method,
        recipe=replace(METHODS[method].recipe, epochs=4, drops=(0.6,)),
        options=MethodOptions(weight=weight, adversarial_share=share),
        start=BASE,
    )


def main(
    mnist: Annotated[Path, typer.Option(help="Folder with MNIST's idx files.")],
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 1,
) -> None:
    """Train, measure, write the result, publish the table."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    training = NamedPictures("MNIST", load_pictures(str(mnist), split="train", limit=PICTURES))
    rows: dict[str, Row] = {
        BASE: Row(method="plain", recipe=SCRATCH),
        "adversarial training": _post("fgsm", None, SHARE),
    }
    chosen: dict[str, dict[str, float]] = {}
    for method, name in NAMES.items():
        tried = {
            weight: _validated(f"{name} {weight:g}", _post(method, weight), rows, training)
            for weight in GRIDS[method]
        }
        weight = max(
            (one for one, accuracy in tried.items() if accuracy >= LEAST_ACCURACY), default=None
        )
        if weight is None:
            raise DataError(f"No weight of {name} keeps {LEAST_ACCURACY:.1%}: {tried}.")
        chosen[name] = {"weight": weight} | {f"{one:g}": found for one, found in tried.items()}
        rows[name] = _post(method, weight)
        rows[f"{name}, adversarial"] = _post(method, weight, SHARE)
        rows[f"{name}, from scratch"] = Row(
            method=method,
            recipe=replace(SCRATCH, epochs=8, batch_size=500),
            options=MethodOptions(weight=weight),
        )
    networks = [
        Network(
            name=name,
            classifier=for_attacks(target, torch.device("cpu")),
            identity=state_digest(target),
        )
        for name, target in ((name, _network(name, rows, training)) for name in rows)
    ]
    crafting, judging = parted(
        training.pictures, load_pictures(str(mnist), split="test"), seed=0,
        device=torch.device("cpu"),
    )  # fmt: skip
    measured = compare(
        networks, crafting, judging, FOLDER / "comparison", norm="linf", epsilon=0.2, seed=0,
        parts=("accuracy", "jacobian", "rho-adv", "evasion"),
    )  # fmt: skip
    trained = {name: origin(FOLDER / name) for name in rows}
    write_json(RESULT, measured | {"training": trained, "chosen": chosen})
    publish(PAGE, "hardening_mnist", render(read_json(RESULT)))


def _network(name: str, rows: dict[str, Row], training: NamedPictures) -> Target:
    return hardened(
        name, rows, untrained, training, FOLDER,
        norm="linf", epsilon=EPSILON, seed=0,
    )  # fmt: skip


def _validated(name: str, row: Row, rows: dict[str, Row], training: NamedPictures) -> float:
    """Validation accuracy of the epoch that was kept."""
    _network(name, rows | {name: row}, training)
    made = origin(FOLDER / name)
    return float(made["epochs"][made["kept_epoch"] - 1]["clean"]["value"])


def render(result: dict[str, Any]) -> str:
    """The table as markdown, a row per method."""
    rows = [[name, *_cells(name, one)] for name, one in result["networks"].items()]
    weights = ", ".join(f"{name} {one['weight']:g}" for name, one in result["chosen"].items())
    setting = result["setting"]
    commits = sorted({one["commit"] for one in result["training"].values()})
    return (
        f"{table(COLUMNS, rows, left=1)}\nMNIST, {PICTURES} training pictures; "
        "post-processing of the first row unless it says otherwise. Weights, the largest that kept "
        f"{LEAST_ACCURACY:.1%} of the validation pictures: {weights}. Adversarial: {SHARE:.0%} of "
        f"each mini-batch by FGSM, linf {EPSILON:g}. Accuracy and UER on 10,000 test pictures, "
        "rho_adv and norms on 1,000 of them (DeepFool's norm on 200). One training each. "
        f"{setting['hardware']}, threads of torch {setting['versions']['torch']}: "
        f"{result['training'][BASE]['threads']}, commit {', '.join(commits)}.\n"
    )


def _cells(name: str, one: dict[str, Any]) -> list[str]:
    accuracy, distance = one["accuracy"]["clean_accuracy"], one["rho-adv"]["rho_adv"]
    (evasion,) = (point["uer"]["value"] for point in one["evasion"].values())
    jacobian = one["jacobian"]
    paper, rho = PUBLISHED[name]
    return [
        f"{100 * accuracy['value']:.2f} ({100 * accuracy['low']:.2f}-{100 * accuracy['high']:.2f})",
        "" if paper is None else f"{paper:.2f}",
        f"{distance['value']:.4f} ({distance['low']:.4f}-{distance['high']:.4f})",
        f"{rho:.4f}",
        f"{jacobian['norm']['value']:.2f} / {jacobian['deepfool_norm']['value']:.2f}",
        f"{100 * evasion:.1f}",
    ]


if __name__ == "__main__":
    typer.run(main)
