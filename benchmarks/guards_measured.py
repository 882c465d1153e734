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
from prn_guard.nn.guarded import GuardedClassifier
from training.attacks.subject import CRAFTING_PICTURES, for_attacks
from training.datasets import Pictures, Subset, evenly_spaced, held_in_memory
from training.evaluation.families import ENTRIES
from training.evaluation.informed.attack import attack_guard
from training.evaluation.outcomes import answers
from training.evaluation.protocols import apart, protocol
from training.evaluation.survey import Entry
from training.evaluation.transfer import measure_transfer
from training.guard.folder import GuardRecord, load_bank, load_guard
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
        judged: attacks, those of other families too, are judged on so many test pictures.
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


@final
@dataclass(frozen=True, kw_only=True)
class Subject:
    """A guard and the pictures that it is measured on."""

    guarded: GuardedClassifier
    record: GuardRecord
    unseen: Tensor
    test: Pictures
    crafting: Pictures
    ball: Ball
    plan: Measurement
    results: Path
    families: Path

    def judged(self) -> Pictures:
        """The test pictures that attacks are judged on."""
        return evenly_spaced(self.test, self.plan.judged)


def measured(folder: Path, classifier: Classifier, ball: Ball, plan: Measurement) -> dict[str, Any]:
    """All figures of the guard in `folder`; what was measured before is kept."""
    one = subject(folder, classifier, ball, plan)
    return {
        **_protocols(one),
        "rounds": one.record.rounds,
        "seconds": one.record.seconds,
        "transfer": _transfer(one),
        "informed": [_informed(one, epsilon) for epsilon in _radii(ball, plan)],
    }


def attacked(folder: Path, classifier: Classifier, ball: Ball, plan: Measurement) -> None:
    """Only the attacks with everything known, for `measured` to find them made."""
    one = subject(folder, classifier, ball, plan)
    for epsilon in _radii(ball, plan):
        _informed(one, epsilon)


def _radii(ball: Ball, plan: Measurement) -> Sequence[float]:
    return plan.radii or ([ball.epsilon] if ball.norm == "l2" else [ball.epsilon, SMALLER])


def subject(folder: Path, classifier: Classifier, ball: Ball, plan: Measurement) -> Subject:
    """The guard in `folder`, and test and crafting pictures in memory."""
    guarded, record = load_guard(folder)
    for_attacks(guarded.target, torch.device("cpu"))
    loaded = classifier.load()
    training = classifier.pictures(loaded, test=False).pictures
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(1))
    return Subject(
        guarded=guarded,
        record=record,
        unseen=load_bank(folder).unseen,
        test=held_in_memory(classifier.pictures(loaded, test=True).pictures),
        crafting=held_in_memory(Subset(training, order[:CRAFTING_PICTURES])),
        ball=ball,
        plan=plan,
        results=results_of(folder),
        families=WORK / classifier.name / f"families-{ball.name}.safetensors",
    )


def _protocols(one: Subject) -> dict[str, Any]:
    clean = answers(one.guarded, one.test)
    perturbed = [answers(one.guarded, one.test, each) for each in one.unseen]
    everyone = np.ones(len(one.test), dtype=bool)
    return {
        "apart": apart(clean, perturbed),
        "protocol_a": protocol(clean, perturbed, chosen=everyone, seed=0),
        "protocol_b": protocol(clean, perturbed, chosen=clean.bare == clean.labels, seed=0),
    }


def _transfer(one: Subject) -> dict[str, Any]:
    return measure_transfer(
        one.guarded,
        norm=one.ball.norm,
        epsilon=one.ball.epsilon,
        crafting=one.crafting,
        test=one.judged(),
        held_out=one.unseen,
        elsewhere=one.plan.elsewhere,
        families=one.plan.families,
        other_norm=one.plan.other_norm,
        seed=0,
        out=one.results / "transfer",
        identity={"guard files": one.record.files},
        families_path=one.families,
    )


def _informed(one: Subject, epsilon: float) -> dict[str, Any]:
    return attack_guard(
        one.guarded,
        norm=one.ball.norm,
        epsilon=epsilon,
        crafting=one.crafting,
        test=one.judged(),
        out=one.results / f"informed-{epsilon:.4f}",
        identity={"guard": one.record.files},
        bank_unseen=one.unseen,
        steps=one.plan.steps,
        entries=one.plan.attacks,
        precision=one.plan.precision,
        checks=one.plan.checks and epsilon == one.ball.epsilon,
    )


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
