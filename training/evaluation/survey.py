"""`survey`: every universal attack on one classifier; one table, and the perturbations in a file.

```
survey.json                 a row per attack: fooling rate with interval, evasion, seconds
perturbations.safetensors   what they made, by the name of the attack
```

Each attack is recorded as soon as it has ended, so that an interrupted survey goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch

from prn_guard.errors import InvalidArgumentError
from prn_guard.files import read_json, write_json
from prn_guard.version import __version__
from training.attacks.command import craft_and_measure
from training.attacks.losses import LossName
from training.attacks.norms import Norm, check_ball
from training.attacks.objectives import LOSSES
from training.attacks.registry import METHODS, method
from training.attacks.subject import Subject
from training.checkpoint import load_tensors, save_tensors
from training.evaluation.metrics import wilson_interval
from training.resuming import check_same_request
from training.setting import hardware, versions

RESULT: Final = "survey.json"
PERTURBATIONS: Final = "perturbations.safetensors"


@final
@dataclass(frozen=True)
class Entry:
    """An attack, the loss that it ascends and its steps; None is its own."""

    method: str
    loss: LossName | None = None
    steps: int | None = None

    @property
    def name(self) -> str:
        """How results call it: `sga`, or `sga logit_margin`."""
        return self.method if self.loss is None else f"{self.method} {self.loss}"


def parse_entry(text: str) -> Entry:
    """The entry that `METHOD` or `METHOD:LOSS` names.

    Raises:
        InvalidArgumentError: no such attack, or it ascends no such loss.
    """
    name, _, loss = text.partition(":")
    takes = method(name).takes
    for known in LOSSES:
        if loss == known and "loss" in takes:
            return Entry(name, known)
    if loss:
        raise InvalidArgumentError(
            f"{text!r} names no attack and loss. Losses are {', '.join(LOSSES)}, and the methods "
            f"with a choice of them {', '.join(n for n in METHODS if 'loss' in METHODS[n].takes)}."
        )
    return Entry(name)


def survey(
    subject: Subject,
    out: Path,
    *,
    norm: Norm,
    epsilon: float,
    seed: int,
    entries: Sequence[Entry] | None = None,
    restart: bool = False,
) -> dict[str, Any]:
    """Try `entries` on `subject`, the strongest first in the result.

    Args:
        subject: what is attacked, on which pictures.
        out: folder for the results.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        seed: of every random choice.
        entries: attacks to try; None tries each registered one.
        restart: throw away what an earlier survey left in `out`.

    Raises:
        InvalidArgumentError: `out` holds another survey, or the ball makes no sense.
    """
    check_ball(norm, epsilon, subject.crafting.shape)
    request = subject.facts() | {
        "norm": norm,
        "epsilon": epsilon,
        "seed": seed,
        "prn-guard": __version__,
    }
    path, made_path = out / RESULT, out / PERTURBATIONS
    rows: dict[str, dict[str, Any]] = {}
    made: dict[str, torch.Tensor] = {}
    if path.exists() and made_path.exists() and not restart:
        before = read_json(path)
        check_same_request(before.get("request"), request, out, "a survey")
        made = load_tensors(made_path)[0]
        rows = {row["name"]: row for row in before["attacks"] if row["name"] in made}
    clean = subject.clean_predictions()
    facts = {
        "request": request,
        "clean_accuracy": float((clean == subject.judging.labels).double().mean()),
        "versions": versions(),
        "hardware": hardware(),
        "device": str(subject.judging.device),
        "threads": torch.get_num_threads(),
    }
    for entry in entries if entries is not None else map(Entry, METHODS):
        name = entry.name
        if name in rows and rows[name]["steps"] == entry.steps:
            continue
        perturbation, row = craft_and_measure(
            subject,
            method_name=entry.method,
            loss=entry.loss,
            steps=entry.steps,
            norm=norm,
            epsilon=epsilon,
            seed=seed,
            clean=clean,
        )
        low, high = wilson_interval(row["fooling_rate"], row["judging_pictures"])
        rows[name] = {
            "name": name,
            "steps": entry.steps,
            "fooling_low": low,
            "fooling_high": high,
        } | row
        made[name] = perturbation
        save_tensors(made_path, made, {"request": request})
        result = facts | {"attacks": sorted(rows.values(), key=lambda one: -one["fooling_rate"])}
        write_json(path, result)
    return dict(read_json(path))
