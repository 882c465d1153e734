"""`transfer`: measure the guard of a folder against perturbations that do not know it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from prn_guard.files import sha256_of
from training.attacks.subject import for_attacks
from training.datasets import held_in_memory
from training.datasets.fitting import Shape
from training.evaluation.families import ENTRIES
from training.evaluation.survey import Entry
from training.evaluation.transfer import measure_transfer
from training.guard import folder as layout
from training.guard.folder import load_bank, load_guard
from training.guard.pictures import crafting_pictures, judged_pictures
from training.perturbations.loading import load_perturbations

CPU: Final = torch.device("cpu")


def transfer(
    folder: Path,
    images: str,
    out: Path,
    *,
    families: Sequence[Entry] = ENTRIES,
    repeats: int = 1,
    files: Sequence[Path] = (),
    other_norm: Sequence[Path] = (),
    read: Callable[[Path, Shape], Tensor] = load_perturbations,
    crafting_images: str | None = None,
    limit: int | None = None,
    data_folder: Path | None = None,
    device: torch.device = CPU,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the guard of `folder` as `measure_transfer` does; write the results to `out`.

    Args:
        folder: what `fit` wrote.
        images: test pictures, as the user named them.
        out: folder for `transfer.json` and `families.safetensors`; an interrupted run goes on.
        families: attacks to craft by, on the bare target.
        repeats: perturbations of each.
        files: perturbations made elsewhere.
        other_norm: perturbations bounded in the other norm than the guard's.
        read: how these files are read for pictures of a shape `(C, H, W)`.
        crafting_images: pictures to craft on; None takes the guard's training pictures.
        limit: at most so many test pictures.
        data_folder: where to look for Fashion-MNIST first; None takes the fit's.
        device: where to compute.
        seed: of every random choice.

    Raises:
        ArtifactError, TargetError, DataError, InvalidArgumentError: the guard, the target, or
            pictures, perturbations and attacks cannot be used.
    """
    guarded, record = load_guard(folder)
    test = judged_pictures(folder, record, images, limit=limit, data_folder=data_folder)
    shape = record.input.shape
    crafting = crafting_pictures(
        record, crafting_images, data_folder=data_folder, seed=seed, purpose="transfer pictures"
    )
    for_attacks(guarded.target, device)
    return measure_transfer(
        guarded.to(device),
        norm=record.norm,
        epsilon=record.epsilon,
        crafting=held_in_memory(crafting, device=device),
        test=held_in_memory(test, device=device),
        held_out=load_bank(folder).unseen,
        elsewhere={str(path): read(path, shape) for path in files},
        families=families,
        other_norm={str(path): read(path, shape) for path in other_norm},
        repeats=repeats,
        seed=seed,
        out=out,
        identity={
            "rectifier": sha256_of(folder / layout.RECTIFIER),
            "detector": sha256_of(folder / layout.DETECTOR),
            "images": images,
            "crafting images": crafting_images,
        },
    )
