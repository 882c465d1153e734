"""`bank`: a file of diverse perturbations that all fool the classifier, with their figures.

The search keeps its state in a folder beside `--out` until it has ended, and goes on from there.
"""

import shutil
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from prn_guard.files import read_json, write_json
from training.attacks.engine import Schedule
from training.attacks.fooling import fooling_rate, predict
from training.attacks.norms import Norm, check_ball
from training.attacks.subject import Subject
from training.checkpoint import check_suffix, load_tensors
from training.datasets import Pictures
from training.perturbations.bank import Bank, BankCriteria
from training.perturbations.search import craft_bank
from training.progress import tracked
from training.resuming import check_same_request

REQUEST: Final = "request.json"
STATE: Final = "state.safetensors"
KIND: Final = "a bank"


@final
@dataclass(frozen=True, kw_only=True)
class BankRequest:
    """One bank: a subject, a ball, criteria.

    Args:
        subject: what is attacked; its judging pictures decide over acceptance.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        seed: of every random choice.
        criteria: of acceptance.
        schedule: of the attack.
        together: candidates crafted at once.

    Raises:
        InvalidArgumentError: a ball that makes no sense.
    """

    subject: Subject
    norm: Norm
    epsilon: float
    seed: int
    criteria: BankCriteria = field(default_factory=BankCriteria)
    schedule: Schedule = field(default_factory=Schedule)
    together: int = 1

    def __post_init__(self) -> None:
        check_ball(self.norm, self.epsilon, self.subject.crafting.shape)

    def facts(self) -> dict[str, Any]:
        """All that the bank depends on, as plain JSON values."""
        return self.subject.facts() | {
            "norm": self.norm,
            "epsilon": self.epsilon,
            "seed": self.seed,
            "members": self.criteria.members,
            "held out": self.criteria.held_out,
            "least fooling rate": self.criteria.least_fooling,
            "largest cosine": self.criteria.most_cosine,
            "steps": self.schedule.steps,
            "together": self.together,
        }


def make_bank(
    request: BankRequest, out: Path, *, test: Pictures | None = None, restart: bool = False
) -> dict[str, Any]:
    """Search a bank, write it to `out`, and return its figures.

    Args:
        request: which bank.
        out: safetensors file; `perturbations` `(P, C, H, W)`, figures as metadata.
        test: pictures that decide nothing, to report the fooling rates on too.
        restart: throw away what an earlier search left at `out`.

    Raises:
        InvalidArgumentError: what lies at `out` belongs to another request, or its name does not
            end in `.safetensors`.
        DataError: fewer than two candidates fool the classifier at all.
    """
    check_suffix(out)
    work = out.with_name(f"{out.name}.search")
    if restart:
        out.unlink(missing_ok=True)
        shutil.rmtree(work, ignore_errors=True)
    if out.exists():
        check_same_request(load_tensors(out)[1].get("request"), request.facts(), out, KIND)
        bank = Bank.load(out)
    else:
        bank = _search(request, out, work)
        bank.save(out, request=request.facts())
        shutil.rmtree(work, ignore_errors=True)
    figures = bank.summary() | {"file": str(out), "request": request.facts()}
    return figures if test is None else figures | _on_test_pictures(request.subject, bank, test)


def _search(request: BankRequest, out: Path, work: Path) -> Bank:
    if (work / REQUEST).exists():
        check_same_request(read_json(work / REQUEST), request.facts(), out, KIND)
    else:
        write_json(work / REQUEST, request.facts())
    criteria = request.criteria
    with tracked("Crafting perturbations") as track:
        return craft_bank(
            request.subject.attacked,
            request.subject.crafting,
            request.subject.judging,
            norm=request.norm,
            epsilon=request.epsilon,
            seed=request.seed,
            criteria=criteria,
            schedule=request.schedule,
            together=request.together,
            resume=work / STATE,
            on_round=lambda so_far: track(
                len(so_far.perturbations),
                criteria.members,
                f"{so_far.candidates} tried of at most {criteria.most_candidates}; rejected: "
                f"{so_far.rejected_fooling} fool too little, {so_far.rejected_cosine} too alike",
            ),
        )


def _on_test_pictures(subject: Subject, bank: Bank, test: Pictures) -> dict[str, Any]:
    clean = predict(subject.deployed, test)
    rates = [
        fooling_rate(clean, predict(subject.deployed, test, one)) for one in bank.perturbations
    ]
    accuracy = float((clean == test.labels).double().mean())
    return {
        "test_pictures": len(test),
        "test_clean_accuracy": accuracy,
        "test_fooling_rates": rates,
        "least_test_fooling_rate": min(rates),
        "median_test_fooling_rate": statistics.median(rates),
    }
