"""`attack-guard`: the informed attacker on a guard folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor

from prn_guard.files import sha256_of
from prn_guard.nn.guarded import GuardedClassifier
from training.attacks.subject import for_attacks
from training.datasets import Pictures
from training.evaluation.informed.attack import STEPS, attack_guard, attack_request, check_folder
from training.guard import folder as layout
from training.guard.folder import GuardRecord, load_bank, load_guard
from training.guard.pictures import attackers_pictures, judged_pictures
from training.guard.recipe import Precision

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
    asked = _asked(folder, images, crafting_images, limit, data_folder)
    for_attacks(asked.guarded.target, device)
    return attack_guard(
        asked.guarded.to(device),
        norm=asked.record.norm,
        epsilon=asked.record.epsilon,
        crafting=asked.crafting,
        test=asked.test,
        out=out,
        identity=asked.identity,
        bank_unseen=asked.unseen,
        steps=steps,
        entries=entries,
        precision=precision,
        checks=checks,
        seed=seed,
        restart=restart,
    )


def check_attack(
    folder: Path,
    images: str,
    out: Path,
    *,
    steps: int = STEPS,
    precision: Precision = "float32",
    crafting_images: str | None = None,
    limit: int | None = None,
    data_folder: Path | None = None,
    seed: int = 0,
    restart: bool = False,
) -> None:
    """Refuse now, without writing anything, what `attack_guard_folder` would refuse later.

    Args:
        folder: these, and the others, as `attack_guard_folder` takes them.
        images: likewise.
        out: likewise.
        steps: likewise.
        precision: likewise.
        crafting_images: likewise.
        limit: likewise.
        data_folder: likewise.
        seed: likewise.
        restart: what lies in `out` does not matter.

    Raises:
        ArtifactError, TargetError, DataError: the guard, the target, or pictures cannot be used.
        InvalidArgumentError: options that make no sense, or `out` holds another attack.
    """
    asked = _asked(folder, images, crafting_images, limit, data_folder)
    request = attack_request(
        norm=asked.record.norm, epsilon=asked.record.epsilon, crafting=asked.crafting,
        test=asked.test, identity=asked.identity, bank_unseen=asked.unseen, steps=steps,
        precision=precision, seed=seed,
    )  # fmt: skip
    if not restart:
        check_folder(out, request)


@final
@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is attacked, and on which pictures."""

    guarded: GuardedClassifier
    record: GuardRecord
    crafting: Pictures
    test: Pictures
    identity: dict[str, str]
    unseen: Tensor


def _asked(
    folder: Path,
    images: str,
    crafting_images: str | None,
    limit: int | None,
    data_folder: Path | None,
) -> _Asked:
    guarded, record = load_guard(folder)
    return _Asked(
        guarded=guarded,
        record=record,
        crafting=attackers_pictures(record, crafting_images, data_folder=data_folder),
        test=judged_pictures(folder, record, images, limit=limit, data_folder=data_folder),
        identity={
            "target": record.target_digest,
            "rectifier": sha256_of(folder / layout.RECTIFIER),
            "detector": sha256_of(folder / layout.DETECTOR),
        },
        unseen=load_bank(folder).unseen,
    )
