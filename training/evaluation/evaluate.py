"""`evaluate`: measure a guard on test pictures and write the result files.

```
metrics.json           every figure, with n and interval, and the threat model
adaptive.safetensors   the perturbations of the adaptive attacker
examples.safetensors   a few pictures: clean, perturbed, rectified; and the held-out perturbations
pictures/*.png         the same pictures as a client would send them
```
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from prn_guard import console
from prn_guard.files import read_json, sha256_of, write_json
from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.version import __version__
from training.attacks.subject import for_attacks
from training.datasets import (
    Pictures,
    digest_of,
    evenly_spaced,
    held_in_memory,
)
from training.datasets.fitting import Shape
from training.evaluation.adaptive import InformedAttacker
from training.evaluation.examples import write_examples
from training.evaluation.informed.curves import fooling_against_epsilon
from training.evaluation.metrics import roc_curve
from training.evaluation.outcomes import Answers, answers
from training.evaluation.protocols import apart, protocol, under
from training.guard import folder as layout
from training.guard.folder import GuardRecord, load_bank, load_guard
from training.guard.pictures import crafting_pictures, judged_pictures
from training.guard.surrogates import SURROGATES
from training.perturbations.loading import load_perturbations
from training.progress import tracked
from training.setting import hardware, versions

METRICS = "metrics.json"
ADAPTIVE = "adaptive.safetensors"
CURVE_PICTURES = 1000
CURVE_SCALES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
ADAPTIVE_SCALES = (0.5, 1.0, 2.0)
CPU: Final = torch.device("cpu")
STARTS = 3
"""Random starts of the adaptive attacker per surrogate: one alone was up to 13 points too weak."""


def evaluate_guard(
    folder: Path,
    images: str,
    out: Path,
    *,
    files: Sequence[Path] = (),
    read: Callable[[Path, Shape], Tensor] = load_perturbations,
    crafting_images: str | None = None,
    limit: int | None = None,
    data_folder: Path | None = None,
    device: torch.device = CPU,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the guard of `folder` and write the result files to `out`.

    Args:
        folder: what `fit` wrote.
        images: test pictures, as the user named them.
        out: folder for the result files; an interrupted evaluation goes on there.
        files: perturbations made elsewhere, measured beside the held-out ones.
        read: how these files are read for pictures of a shape `(C, H, W)`.
        crafting_images: pictures of the adaptive attacker; None takes the training pictures.
        limit: at most so many test pictures.
        data_folder: where to look for Fashion-MNIST first; None takes the fit's.
        device: where to compute.
        seed: of mixes, attacks and bootstrap.

    Raises:
        ArtifactError, TargetError, DataError: the guard, the target, or pictures and
            perturbations cannot be used.
    """
    begin = time.monotonic()
    guarded, record = load_guard(folder)
    test = judged_pictures(folder, record, images, limit=limit, data_folder=data_folder)
    loaded = {str(path): read(path, record.input.shape) for path in files}
    request = _request(folder, record, images, test, loaded, crafting_images, seed)
    if (out / METRICS).exists():
        before: dict[str, Any] = read_json(out / METRICS)
        if before.get("request") == request:
            console.say(f"{out} holds this very evaluation already; nothing to do.")
            return before
    for_attacks(guarded.target, device)
    attacker = InformedAttacker(
        guarded.to(device),
        record,
        held_in_memory(
            crafting_pictures(
                record,
                crafting_images,
                data_folder=data_folder,
                seed=seed,
                purpose="adaptive pictures",
            ),
            device=device,
        ),
        path=out / ADAPTIVE,
        request=request,
        seed=seed,
    )
    test, unseen = held_in_memory(test, device=device), load_bank(folder).unseen
    metrics = _measure(guarded, record, test, unseen, loaded, attacker, seed)
    metrics["setting"] |= {"seconds": round(time.monotonic() - begin, 1), "hardware": hardware()}
    metrics["request"] = request
    write_examples(out, guarded, test, unseen, record.class_names)
    write_json(out / METRICS, metrics)
    return metrics


def _request(
    folder: Path,
    record: GuardRecord,
    images: str,
    test: Pictures,
    loaded: Mapping[str, Tensor],
    crafting_images: str | None,
    seed: int,
) -> dict[str, Any]:
    """All that the result depends on."""
    return {
        "target": record.target_digest,
        "rectifier": sha256_of(folder / layout.RECTIFIER),
        "detector": sha256_of(folder / layout.DETECTOR),
        "bank": sha256_of(folder / layout.BANK),
        "images": images,
        "pictures": digest_of(test),
        "prn-guard": __version__,
        "perturbations": {
            name: hashlib.sha256(stack.numpy().tobytes()).hexdigest()
            for name, stack in loaded.items()
        },
        "crafting images": crafting_images,
        "seed": seed,
    }


def _measure(
    guarded: GuardedClassifier,
    record: GuardRecord,
    test: Pictures,
    unseen: Tensor,
    loaded: dict[str, Tensor],
    attacker: InformedAttacker,
    seed: int,
) -> dict[str, Any]:
    clean = answers(guarded, test)
    with tracked("Held-out perturbations") as track:
        perturbed = []
        for number, member in enumerate(unseen):
            perturbed.append(answers(guarded, test, member))
            track(number + 1, len(unseen))
    informed = [_worst_start(guarded, test, clean, attacker, name) for name in SURROGATES]
    worst = min(informed, key=_guarded_accuracy)
    held_out: list[dict[str, Any]] = [{**under(clean, [one])} for one in perturbed]
    everyone = np.ones(len(test), dtype=bool)
    return {
        **apart(clean, perturbed),
        "adaptive_accuracy": min([worst, *held_out], key=_guarded_accuracy)[
            "guarded_perturbed_accuracy"
        ],
        "protocol_a": protocol(clean, perturbed, chosen=everyone, seed=seed),
        "protocol_b": protocol(clean, perturbed, chosen=clean.bare == clean.labels, seed=seed),
        "adaptive": informed,
        "held_out": held_out,
        "elsewhere": [
            {"file": name, "number": number, "linf": float(one.abs().max())}
            | under(clean, [answers(guarded, test, one)])
            for name, stack in loaded.items()
            for number, one in enumerate(stack)
        ],
        "roc": roc_curve(clean.scores, np.concatenate([one.scores for one in perturbed])),
        "fooling_against_epsilon": _curve(guarded, record, test, unseen, attacker, worst),
        "threat_model": {
            "norm": record.norm,
            "epsilon": record.epsilon,
            "universal": "one pattern for all pictures, added before they reach the guard",
            "held_out": "the attacker knows the target, and neither rectifier nor detector",
            "adaptive": "the attacker knows target, rectifier, detector and threshold, and "
            "crafts through them on the training pictures; the worst of "
            f"{', '.join(SURROGATES)}, {STARTS} starts each, and of the held-out perturbations "
            "is reported",
            "delivery": "pictures are clipped to [0, 1] and rounded to 8 bits",
        },
        "setting": {
            "target": record.target,
            "test_pictures": len(test),
            "held_out_perturbations": len(unseen),
            "calibrated_false_positive_rate": record.false_positive_rate,
            "device": str(test.device),
            "versions": versions(),
        },
    }


def _worst_start(
    guarded: GuardedClassifier,
    test: Pictures,
    clean: Answers,
    attacker: InformedAttacker,
    surrogate: str,
) -> dict[str, Any]:
    """Figures under the start of the adaptive attacker that hurts the guard most."""
    rows: list[dict[str, Any]] = []
    for start in range(STARTS):
        perturbation = attacker.perturbation(surrogate, start)
        figures = under(clean, [answers(guarded, test, perturbation)])
        rows.append({"surrogate": surrogate, "start": start, **figures})
    return min(rows, key=_guarded_accuracy)


def _guarded_accuracy(row: dict[str, Any]) -> float:
    return float(row["guarded_perturbed_accuracy"]["value"])


def _curve(
    guarded: GuardedClassifier,
    record: GuardRecord,
    test: Pictures,
    unseen: Tensor,
    attacker: InformedAttacker,
    worst: dict[str, Any],
) -> list[dict[str, Any]]:
    """Fooling rates over epsilon: held-out perturbations scaled, adaptive ones crafted anew.

    The adaptive ones go through the surrogate, and begin at the start (scaled), that hurt the guard
    most at its own epsilon.
    """

    def informed(scale: float) -> Tensor | None:
        if scale not in ADAPTIVE_SCALES:
            return None
        return attacker.perturbation(worst["surrogate"], worst["start"], scale=scale)

    return fooling_against_epsilon(
        guarded,
        evenly_spaced(test, CURVE_PICTURES),
        unseen,
        informed,
        norm=record.norm,
        epsilon=record.epsilon,
        scales=CURVE_SCALES,
    )
