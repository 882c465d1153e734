"""The rectifier's stage of a fit: training, rounds against attacks on the whole guard, files.

```
rectifier.safetensors  the finished rectifier
found.safetensors      what the attacks of the rounds found, and how the guard held under each
state/                 while it is under way: either training's exact state, the joint detector
```
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from prn_guard.nn.rectifier import build_rectifier
from training.checkpoint import load_tensors, save_tensors
from training.datasets import Pictures, evenly_spaced, held_in_memory
from training.guard import folder as layout
from training.guard.alternation import Alternation, Rounds
from training.guard.crafting import training_perturbations
from training.guard.fit_rectifier import fit_rectifier
from training.guard.folder import load_module, save_module
from training.guard.joint_detector import JointDetector
from training.guard.rectifier_training import RectifierTraining
from training.guard.request import FitRequest
from training.guard.splits import Splits
from training.processes import Processes
from training.progress import tracked
from training.randomness import generator_for

JUDGING_PICTURES = 1000
"""How many the rounds judge by."""
JOINT = "joint.safetensors"


@final
@dataclass(frozen=True, kw_only=True)
class Trained:
    """What the stage gave."""

    rectifier: nn.Module
    joint: JointDetector | None
    found: Tensor
    """`(N, C, H, W)`, of the rounds."""
    attempts: list[dict[str, Any]]
    """How the guard held under each of them."""


def train(request: FitRequest, splits: Splits, out: Path, together: Processes) -> Trained:
    """Train, unless the files are there; an interrupted training goes on from its state.

    Args:
        request: target, ball, recipe and seed.
        splits: pictures to train on and to judge by; on the device of the target.
        out: the guard folder; its perturbations are there.
        together: the processes that train; all of them end with the same weights.

    Raises:
        DataError: the loss stops being finite.
        InvalidArgumentError: mini-batches that the processes cannot share evenly.
    """
    recipe, device = request.recipe(), splits.rectifier.device
    _, height, width = splits.rectifier.shape
    rectifier = build_rectifier(
        request.rectifier(), generator=generator_for(request.options.seed, "weights")
    ).to(device)
    joint = None
    if recipe.detection:
        rate = request.options.false_positive_rate
        joint = JointDetector(height, width, false_positive_rate=rate).to(device)
    if not together.leader_says((out / layout.RECTIFIER).exists()):
        training = RectifierTraining(
            rectifier, request.loaded.target, recipe=recipe, joint=joint, together=together
        )
        perturbations = training_perturbations(out).to(device)
        _first(training, request, splits, perturbations, out)
        found = _rounds(training, request, splits, perturbations, out)
        if together.leads:
            _save(rectifier, joint, found, out)
    together.wait()
    load_module(out / layout.RECTIFIER, rectifier)
    if joint is not None:
        load_module(out / layout.STATE / JOINT, joint.eval())
    tensors, facts = load_tensors(out / layout.FOUND)
    # Whoever leads may go on, and remove the state, when all have read it.
    together.wait()
    return Trained(
        rectifier=rectifier.eval(),
        joint=joint,
        found=tensors["perturbations"],
        attempts=facts["attempts"],
    )


def _first(
    training: RectifierTraining, request: FitRequest, splits: Splits, bank: Tensor, out: Path
) -> None:
    with tracked("Training the rectifier") as track:

        def on_iteration(done: int, total: int, loss: float) -> None:
            if training.together.leads:
                track(done, total, f"loss {loss:.3f}")

        fit_rectifier(
            training,
            splits.rectifier,
            bank,
            norm=request.norm,
            epsilon=request.epsilon,
            seed=request.options.seed,
            checkpoint=out / layout.STATE / "rectifier.safetensors",
            on_iteration=on_iteration,
        )


def _rounds(
    training: RectifierTraining, request: FitRequest, splits: Splits, bank: Tensor, out: Path
) -> Alternation:
    if training.joint is None or not training.recipe.rounds:
        return Alternation(found=torch.zeros(0, *splits.rectifier.shape))
    judging: Pictures = evenly_spaced(splits.judging, min(JUDGING_PICTURES, len(splits.judging)))
    rounds = Rounds(
        training=training,
        joint=training.joint,
        pictures=splits.rectifier,
        judging=held_in_memory(judging, device=judging.device),
        bank=bank,
        norm=request.norm,
        epsilon=request.epsilon,
        false_positive_rate=request.options.false_positive_rate,
        seed=request.options.seed,
    )
    with tracked("Attacking the guard, and training on what is found") as track:

        def on_round(done: int, most: int, state: Alternation) -> None:
            if training.together.leads:
                track(done, most, f"kept under the last attacks: {state.worst(done - 1):.0%}")

        return rounds.run(checkpoint=out / layout.STATE / "rounds.safetensors", on_round=on_round)


def _save(rectifier: nn.Module, joint: JointDetector | None, found: Alternation, out: Path) -> None:
    """Write everything, the rectifier last: its file says that the stage is complete."""
    if joint is not None:
        save_module(out / layout.STATE / JOINT, joint)
    save_tensors(out / layout.FOUND, {"perturbations": found.found}, {"attempts": found.facts()})
    save_module(out / layout.RECTIFIER, rectifier)
