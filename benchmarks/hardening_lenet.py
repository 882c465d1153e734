"""LeNet on MNIST and Fashion-MNIST: Jacobian regularisation and universal adversarial training.

    .venv/bin/python -m benchmarks.hardening_lenet --mnist MNIST

The JR paper's Table 1 and figures 1 to 4 again: standard training, UAT and Jacobian regularisation
of several weights, each from scratch by the same recipe, of which the epoch is chosen on 2,000
pictures of the training set; figures are on the 10,000 test pictures. Attacks of 100 iterations
with batches of 200, crafted on 5,000 training pictures. Resumes from `runs/hardening`; writes
`benchmarks/results/hardening_lenet.json`, the table in docs/hardening.md and its charts.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer

from benchmarks.hardened import WORK, Row, hardened, origin
from benchmarks.publishing import ROOT, publish, table
from prn_guard.contract import InputSpec
from prn_guard.files import read_json, write_json
from prn_guard.nn.target import Target, state_digest
from training.allocator import keep_freed_memory
from training.attacks.subject import for_attacks, parted
from training.datasets import NamedPictures, load_pictures
from training.demo.lenet import network
from training.evaluation.comparison import Network, compare
from training.hardening.job import MethodOptions
from training.hardening.recipe import Recipe

RESULT: Final = ROOT / "benchmarks" / "results" / "hardening_lenet.json"
PAGE: Final = ROOT / "docs" / "hardening.md"
CHARTS: Final = ROOT / "docs" / "hardening"
EPSILONS: Final = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
TARGETED_EPSILONS: Final = (0.1, 0.3)
"""Beside that of the table: ten attacks each."""
WEIGHTS: Final = (0.01, 0.05, 0.2)
NAMES: Final = ("standard", "UAT", *(f"JR {weight:g}" for weight in WEIGHTS))
COLUMNS: Final = (
    "set", "network", "test error, %", "paper", "UER, % (95 %)", "paper",
    "mean TSR, % (s.d. over classes)", "paper", "epsilon_uni(0.75)", "rho_adv",
    "mean norm, clean / DeepFool", "stacked norm / bound", "median similarity",
)  # fmt: skip
PUBLISHED: Final[dict[str, dict[str, tuple[float, float, float]]]] = {
    "MNIST": {
        "standard": (0.92, 85.88, 85.94),
        "UAT": (1.81, 27.49, 24.05),
        "JR 0.05": (0.90, 20.47, 21.57),
    },
    "Fashion-MNIST": {
        "standard": (9.16, 86.63, 86.33),
        "UAT": (16.66, 34.10, 26.64),
        "JR 0.05": (9.15, 29.96, 30.59),
    },
}
"""Test error, UER, mean TSR in per cent; the paper's Table 1."""


@dataclass(frozen=True)
class Dataset:
    """The epsilon of the table, the scaling of the network's input, and how long it is trained."""

    epsilon: float
    mean: float
    std: float
    epochs: int


DATASETS: Final = {
    "Fashion-MNIST": Dataset(0.15, 0.2860, 0.3530, 16),
    "MNIST": Dataset(0.2, 0.1307, 0.3081, 8),
}


def rows(dataset: Dataset) -> dict[str, Row]:
    """The networks of a set; the paper does not state its recipe, this one was chosen here."""
    scratch = Recipe(
        optimizer="adam",
        epochs=dataset.epochs,
        batch_size=100,
        learning_rate=0.003,
        drops=(0.5, 0.75),
        patience=dataset.epochs,
    )
    regularised = (
        Row(method="jacobian", recipe=scratch, options=MethodOptions(weight=weight))
        for weight in WEIGHTS
    )
    made = (Row(method="plain", recipe=scratch), Row(method="uat", recipe=scratch), *regularised)
    return dict(zip(NAMES, made, strict=True))


def untrained(dataset: Dataset, seed: int) -> Target:
    """LeNet for `dataset` with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        spec = InputSpec(
            channels=1,
            height=28,
            width=28,
            mean=(dataset.mean,),
            std=(dataset.std,),
            channel_order="gray",
        )
        return Target(network(), spec)


def main(
    mnist: Annotated[Path, typer.Option(help="Folder with MNIST's idx files.")],
    seed: Annotated[int, typer.Option(help="Of weights and trainings.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 1,
    only: Annotated[str | None, typer.Option(help="One of the sets.")] = None,
) -> None:
    """Train, measure, write the result, publish the table."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    for name, dataset in DATASETS.items():
        if only in {None, name}:
            source = str(mnist) if name == "MNIST" else "fashion-mnist"
            _measure(name, dataset, source, seed)
    found = {
        name: [read_json(path) for path in sorted(WORK.glob(f"{name}-seed-*/measured.json"))]
        for name in DATASETS
    }
    write_json(RESULT, {"sets": {name: runs for name, runs in found.items() if runs}})
    publish(PAGE, "hardening_lenet", render(read_json(RESULT)))


def _measure(name: str, dataset: Dataset, source: str, seed: int) -> None:
    folder = WORK / f"{name}-seed-{seed}"
    training = NamedPictures(name, load_pictures(source, split="train"))
    cpu = torch.device("cpu")
    build: Callable[[], Target] = partial(untrained, dataset, seed)
    networks = []
    for row in NAMES:
        target = hardened(
            row,
            rows(dataset),
            build,
            training,
            folder,
            norm="linf",
            epsilon=dataset.epsilon,
            seed=seed,
        )
        networks.append(
            Network(name=row, classifier=for_attacks(target, cpu), identity=state_digest(target))
        )
    crafting, judging = parted(
        training.pictures, load_pictures(source, split="test"), seed=seed, device=cpu
    )
    out = folder / "comparison"
    compare(
        networks, crafting, judging, out, norm="linf", epsilon=dataset.epsilon, seed=seed,
        epsilons=EPSILONS,
        parts=("accuracy", "jacobian", "rho-adv", "evasion", "universal-robustness"),
    )  # fmt: skip
    measured = compare(
        networks, crafting, judging, out, norm="linf", epsilon=dataset.epsilon, seed=seed,
        epsilons=TARGETED_EPSILONS, parts=("targeted",),
    )  # fmt: skip
    if seed == 0:
        for chart in out.glob("*.png"):
            CHARTS.mkdir(exist_ok=True)
            shutil.copyfile(chart, CHARTS / f"{name.lower()}-{chart.name}")
    trained = {row: origin(folder / row) for row in NAMES}
    write_json(folder / "measured.json", measured | {"training": trained, "seed": seed})


def render(result: dict[str, Any]) -> str:
    """The table as markdown, a row per network and set, the paper's figures beside ours."""
    lines = []
    for name, runs in result["sets"].items():
        for run in runs:
            for row, one in run["networks"].items():
                label = row if run["seed"] == 0 else f"{row}, seed {run['seed']}"
                cells = _cells(one, run["epsilon"], PUBLISHED[name].get(row))
                lines.append([name, label, *cells])
    runs = [run for runs in result["sets"].values() for run in runs]
    setting, standard = runs[0]["setting"], runs[0]["training"]["standard"]
    trained = standard["request"]
    radii = ", ".join(f"{name} {found[0]['epsilon']:g}" for name, found in result["sets"].items())
    epochs = ", ".join(
        f"{name} {found[0]['training']['standard']['request']['epochs']}"
        for name, found in result["sets"].items()
    )
    commits = sorted({row["commit"] for run in runs for row in run["training"].values()})
    return (
        f"{table(COLUMNS, lines, left=2)}\nlinf, epsilon: {radii}; 10,000 test pictures; "
        "Jacobians, similarities and rho_adv on 1,000 of them; one attack per network (UER), one "
        f"per class (TSR). Each network from scratch: {trained['optimizer']}, rate "
        f"{trained['learning_rate']:g}, mini-batches of {trained['batch_size']}, epochs: {epochs}. "
        f"{setting['hardware']}, threads of torch {setting['versions']['torch']}: "
        f"{standard['threads']}, commit {', '.join(commits)}.\n"
    )


def _cells(
    one: dict[str, Any], epsilon: float, paper: tuple[float, float, float] | None
) -> list[str]:
    error, uer = one["accuracy"]["test_error"], one["evasion"][repr(epsilon)]["uer"]
    targeted, jacobian = one["targeted"][repr(epsilon)], one["jacobian"]
    published = ["", "", ""] if paper is None else [f"{value:.2f}" for value in paper]
    radius, similar = one["universal-robustness"]["epsilon"], jacobian["similarity"]
    attacked = jacobian["deepfool_norm"]
    return [
        f"{100 * error['value']:.2f}",
        published[0],
        f"{100 * uer['value']:.2f} ({100 * uer['low']:.1f}-{100 * uer['high']:.1f})",
        published[1],
        f"{100 * targeted['mean']:.2f} ({100 * targeted['standard_deviation']:.1f})",
        published[2],
        "none" if radius is None else f"{radius:.3f}",
        f"{one['rho-adv']['rho_adv']['value']:.3f}",
        f"{jacobian['norm']['value']:.2f} / {attacked['value']:.2f}",
        f"{jacobian['stacked_norm']:.0f} / {jacobian['stacked_bound']:.0f}",
        f"{similar['median']:.3f}",
    ]


if __name__ == "__main__":
    typer.run(main)
