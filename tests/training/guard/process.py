"""Run by several processes at once: trains a guard and writes what each of them ends with."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from prn_guard.nn.rectifier import RectifierSpec, build_rectifier
from tests.training.small import SHAPE, pictures, trained_target
from training.attacks.norms import Norm
from training.checkpoint import save_tensors
from training.guard.alternation import Rounds
from training.guard.fit_rectifier import fit_rectifier
from training.guard.joint_detector import JointDetector
from training.guard.recipe import Recipe
from training.guard.rectifier_training import RectifierTraining
from training.processes import Processes, processes

PAPER = Recipe(epochs=3, learning_rate=0.01, decay=0.9, batch_size=16)
OURS = replace(
    PAPER, decay=None, mirrored=True, augmented=True, largest_gradient=5e-4,
    clean_divergence=0.5, pixels=2.0, checkpoint_every=5,
)  # fmt: skip
# Perturbations aimed at the guard reach pictures of either of two processes.
JOINT = replace(OURS, learning_rate=0.003, detection=1.0, adversarial_share=0.75)
ROUNDS = replace(JOINT, adversarial_share=0.4, rounds=1, round_iterations=4, attack_steps=3)
CASES: Final[dict[str, tuple[Recipe, Norm, float]]] = {
    "paper": (PAPER, "linf", 0.15),
    "ours": (OURS, "linf", 0.15),
    # In l2, because the sign of a gradient that is nearly 0 turns with its rounding.
    "joint": (JOINT, "l2", 1.8),
    "rounds": (ROUNDS, "l2", 1.8),
}


def main(folder: Path) -> None:
    """Train by every recipe; the leading process writes checkpoints."""
    torch.set_num_threads(1)
    with processes(torch.device("cpu")) as together:
        for case in CASES:
            _train(case, together, folder)


def _train(case: str, together: Processes, folder: Path) -> None:
    recipe, norm, epsilon = CASES[case]
    bank = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1)).sign() * 0.15
    rectifier = build_rectifier(
        RectifierSpec(channels=1, width=6, blocks=1), generator=torch.Generator().manual_seed(0)
    )
    joint = JointDetector(*SHAPE[1:]) if recipe.detection else None
    if joint is not None:
        # A new one removes nothing: the detector's gradients are the rounding of equal features,
        # of which Adam makes whole steps.
        with torch.no_grad():
            rectifier.exit.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
    training = RectifierTraining(
        rectifier, trained_target(), recipe=recipe, joint=joint, together=together
    )
    for group in training.optimizer.param_groups:
        # As it comes, Adam makes whole steps of gradients that are nothing but rounding.
        group["eps"] = 0.01
    losses: list[float] = []
    fit_rectifier(
        training, pictures(64, seed=5), bank, norm=norm, epsilon=epsilon, seed=0,
        checkpoint=folder / f"state-{case}-of-{together.count}.safetensors",
        on_iteration=lambda _, __, loss: losses.append(loss),
    )  # fmt: skip
    told = {"losses": torch.tensor(losses, dtype=torch.float64)}
    heard = torch.full((3,), 7.0 + together.rank)
    together.hear([heard, told["losses"]])
    told["heard"] = heard
    if joint is not None and recipe.rounds:
        state = Rounds(
            training=training, joint=joint, pictures=pictures(64, seed=5),
            judging=pictures(80, seed=6), bank=bank, norm=norm, epsilon=epsilon,
            false_positive_rate=0.01, seed=0,
        ).run()  # fmt: skip
        kept = [share for one in state.attempts for share in (one.kept, one.flagged)]
        told |= {"found": state.found, "kept": torch.tensor(kept, dtype=torch.float64)}
    path = folder / f"{case}-{together.rank}-of-{together.count}.safetensors"
    save_tensors(path, {**training.trained.state_dict(), **told}, {})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
