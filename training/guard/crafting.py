"""The first stages of a fit: real perturbations of the target, and synthetic ones beside them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.checkpoint import load_tensors, save_tensors
from training.datasets import held_in_memory
from training.guard import folder as layout
from training.guard.request import FitRequest
from training.guard.splits import Splits
from training.perturbations.bank import Bank, BankCriteria
from training.perturbations.search import craft_bank
from training.perturbations.synthetic import synthesise
from training.progress import tracked
from training.randomness import generator_for


def craft(request: FitRequest, splits: Splits, out: Path) -> None:
    """Craft the bank of real perturbations on the rectifier's pictures, unless it is there.

    Args:
        request: target, ball and how many.
        splits: pictures to craft on, and to judge by; on the device of the target.
        out: the guard folder; an interrupted search goes on from its state.

    Raises:
        DataError: a target that no perturbation fools.
    """
    path = out / layout.BANK
    if path.exists():
        return
    options = request.options
    criteria = BankCriteria(members=options.members, held_out=options.held_out)
    with tracked("Crafting perturbations") as track:
        bank = craft_bank(
            request.loaded.target,
            splits.rectifier,
            held_in_memory(splits.judging, device=splits.judging.device),
            norm=request.norm,
            epsilon=request.epsilon,
            seed=options.seed,
            criteria=criteria,
            resume=out / layout.STATE / "bank.safetensors",
            on_round=lambda so_far: track(
                len(so_far.perturbations),
                criteria.members,
                f"{so_far.candidates} tried of at most {criteria.most_candidates}",
            ),
        )
    bank.save(path)


def extend(request: FitRequest, out: Path) -> None:
    """Extend the bank of the folder `out` by synthetic perturbations, unless they are there.

    Raises:
        DataError: too few of them reach the bank's mean l2 norm.
    """
    path = out / layout.SYNTHETIC
    if path.exists():
        return
    bank = Bank.load(out / layout.BANK)
    made = synthesise(
        bank.training,
        request.options.synthetic,
        norm=bank.norm,
        epsilon=bank.epsilon,
        generator=generator_for(request.options.seed, "synthetic"),
    )
    facts = {
        "form": made.form,
        "count": len(made.perturbations),
        "tried": made.tried,
        "accepted": made.accepted,
        "algorithm_1_acceptance": made.walk_acceptance,
    }
    save_tensors(path, {"perturbations": made.perturbations}, {"facts": facts})


def load_synthetic(out: Path) -> tuple[Tensor, dict[str, Any]]:
    """The synthetic perturbations `(P, C, H, W)` of the folder `out`, and how they came about."""
    tensors, metadata = load_tensors(out / layout.SYNTHETIC)
    return tensors["perturbations"], metadata["facts"]


def training_perturbations(out: Path) -> Tensor:
    """What rectifier and detector are trained under, `(P, C, H, W)`: real, then synthetic ones."""
    return torch.cat([Bank.load(out / layout.BANK).training, load_synthetic(out)[0]])
