"""Everything that is measured of a guard, on pictures that decided nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor

from benchmarks.classifiers import data_folder
from benchmarks.guarded import WORK, Ball, Classifier
from prn_guard.files import read_json, write_json
from training.attacks.subject import CRAFTING_PICTURES, for_attacks
from training.datasets import Subset, evenly_spaced, held_in_memory
from training.evaluation.families import ENTRIES
from training.evaluation.informed.attack import attack_guard
from training.evaluation.outcomes import answers
from training.evaluation.protocols import apart, protocol
from training.evaluation.survey import Entry
from training.evaluation.transfer import measure_transfer
from training.guard.folder import load_bank, load_guard
from training.guard.recipe import Precision
from training.perturbations.loading import load_perturbations
from training.setting import hardware

SMALLER: Final = 8 / 255
FIGURES: Final = "figures.json"


@final
@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a guard is measured with.

    Args:
        elsewhere: perturbations that others made, by name.
        other_norm: perturbations in the other norm, by name.
        judged: attacks with everything known are judged on so many test pictures.
        steps: of each of these attacks.
        attacks: their names; None makes all.
        families: attacks on the bare target.
        radii: of the attacks with everything known; None takes the ball's own, and in linf 8/255.
        checks: also make the masking checks, and the curves, at the ball's own radius.
        precision: that attacks differentiate in.
    """

    elsewhere: Mapping[str, Tensor]
    other_norm: Mapping[str, Tensor]
    judged: int
    steps: int = 1000
    attacks: Sequence[str] | None = None
    families: Sequence[Entry] = ENTRIES
    radii: Sequence[float] | None = None
    checks: bool = True
    precision: Precision = "bfloat16"


def results_of(folder: Path) -> Path:
    """Where the results about the guard in `folder` are kept: beside it."""
    return folder.with_name(f"{folder.name}, measured")


def measured(folder: Path, classifier: Classifier, ball: Ball, plan: Measurement) -> dict[str, Any]:
    """All figures of the guard in `folder`; what was measured before is kept."""
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
    results = results_of(folder)
    radii = plan.radii or ([ball.epsilon] if ball.norm == "l2" else [ball.epsilon, SMALLER])
    return {
        "apart": apart(clean, perturbed),
        "protocol_a": protocol(clean, perturbed, chosen=everyone, seed=0),
        "protocol_b": protocol(clean, perturbed, chosen=clean.bare == clean.labels, seed=0),
        "rounds": record.rounds,
        "seconds": record.seconds,
        "transfer": measure_transfer(
            guarded, norm=ball.norm, epsilon=ball.epsilon, crafting=crafting, test=test,
            held_out=unseen, elsewhere=plan.elsewhere, families=plan.families,
            other_norm=plan.other_norm, seed=0, out=results / "transfer", identity=identity,
            families_path=WORK / classifier.name / f"families-{ball.name}.safetensors",
        ),
        "informed": [
            attack_guard(
                guarded, norm=ball.norm, epsilon=epsilon, crafting=crafting,
                test=evenly_spaced(test, plan.judged), out=results / f"informed-{epsilon:.4f}",
                identity=identity, bank_unseen=unseen, steps=plan.steps, entries=plan.attacks,
                precision=plan.precision, checks=plan.checks and epsilon == ball.epsilon,
            )
            for epsilon in radii
        ],
    }  # fmt: skip


def made_elsewhere(prefix: str, shape: tuple[int, int, int]) -> dict[str, Tensor]:
    """The perturbations that others made, by the name of their file, which begins with `prefix`."""
    files = sorted((data_folder() / "perturbations").glob(f"{prefix}-*.pth"))
    return {path.stem: load_perturbations(path, shape) for path in files}


def collect(classifier: Classifier, path: Path, *, threads: int) -> None:
    """Write the figures of all guards of `classifier` that were measured as one result file."""
    found = sorted((WORK / classifier.name).glob(f"*/{FIGURES}"))
    write_json(
        path,
        {
            "guards": {one.parent.name: read_json(one) for one in found},
            "hardware": hardware(),
            "threads": threads,
            "versions": {"torch": version("torch")},
        },
    )
