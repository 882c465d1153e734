"""`attack-guard`: the informed attacker on a guard folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from prn_guard.files import sha256_of
from training.attacks.subject import for_attacks
from training.datasets import Pictures
from training.evaluation.informed.attack import STEPS, attack_guard
from training.guard import folder as layout
from training.guard.folder import GuardRecord, load_bank, load_guard
from training.guard.pictures import judged_pictures, recorded_pictures
from training.guard.surrogates import Precision

CPU: Final = torch.device("cpu")


def attack_guard_folder(
    folder: Path,
    images: str,
    out: Path,
    *,
    steps: int = STEPS,
    entries: Sequence[str] | None = None,
    precision: Precision = "float32",
    checks: bool = True,
    crafting_images: str | None = None,
    limit: int | None = None,
    data_folder: Path | None = None,
    device: torch.device = CPU,
    seed: int = 0,
    restart: bool = False,
) -> dict[str, Any]:
    """Attack the guard of `folder` in its own ball, and write the result files to `out`.

    Args:
        folder: what `fit` wrote.
        images: test pictures, as the user named them.
        out: folder for the result files; an interrupted run goes on there.
        steps: gradients per attack.
        entries: names of the attacks to make; None makes all.
        precision: that surrogates are differentiated in.
        checks: also make the masking checks and the curves.
        crafting_images: pictures of the attacker; None takes the training pictures.
        limit: at most so many test pictures.
        data_folder: where to look for Fashion-MNIST first; None takes the fit's.
        device: where to compute.
        seed: of every random choice.
        restart: throw away what an earlier run left in `out`.

    Raises:
        ArtifactError, TargetError, DataError: the guard, the target, or pictures cannot be used.
        InvalidArgumentError: options that make no sense, or `out` holds another attack.
    """
    guarded, record = load_guard(folder)
    test = judged_pictures(folder, record, images, limit=limit, data_folder=data_folder)
    for_attacks(guarded.target, device)
    return attack_guard(
        guarded.to(device),
        norm=record.norm,
        epsilon=record.epsilon,
        crafting=_crafting(record, crafting_images, data_folder),
        test=test,
        out=out,
        identity={
            "target": record.target_digest,
            "rectifier": sha256_of(folder / layout.RECTIFIER),
            "detector": sha256_of(folder / layout.DETECTOR),
        },
        bank_unseen=load_bank(folder).unseen,
        steps=steps,
        entries=entries,
        precision=precision,
        checks=checks,
        seed=seed,
        restart=restart,
    )


def _crafting(
    record: GuardRecord, crafting_images: str | None, data_folder: Path | None
) -> Pictures:
    limit = record.limit if crafting_images is None else None
    return recorded_pictures(
        record, crafting_images or record.images, "train", limit=limit, data_folder=data_folder
    )
