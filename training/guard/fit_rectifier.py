"""Training the rectifier in front of the frozen target.

Source: PRN paper, sections 4.1 and 4.2, equation 2: cross-entropy between the joint network's
prediction on clean or perturbed pictures and the *target's own label on the clean picture*; half
of the pictures perturbed by a random member of the real and synthetic perturbations; Adam with
betas (0.9, 0.999) whose rate falls by 10 % each 1,000 iterations; batches of 64.

Departures: rate and decay of the `compact` architecture are its own, and it takes four epochs where
the paper takes at least five (`Recipe`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prn_guard.errors import DataError, InvalidArgumentError
from prn_guard.nn.rectifier import RectifierSpec
from prn_guard.nn.target import Target
from training.attacks.norms import perturb
from training.checkpoint import resume_training, save_training
from training.datasets import Pictures
from training.randomness import generator_for

PERTURBED_SHARE = 0.5
OnIteration = Callable[[int, int, float], None]
"""Called with the iterations done, the iterations in all, and the running loss."""


@final
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a rectifier is trained."""

    epochs: float
    learning_rate: float
    decay: float
    """The rate is multiplied by this each 1,000 iterations."""
    batch_size: int = 64
    checkpoint_every: int = 200


def default_recipe(spec: RectifierSpec, *, epochs: float | None = None) -> Recipe:
    """The paper's recipe for its architecture, ours for the compact one.

    Raises:
        InvalidArgumentError: `epochs` is not above 0.
    """
    if epochs is not None and not epochs > 0:
        raise InvalidArgumentError(f"epochs is {epochs}; expected above 0.")
    if spec.architecture == "paper":
        return Recipe(epochs=epochs or 5, learning_rate=0.01, decay=0.9)
    return Recipe(epochs=epochs or 4, learning_rate=0.003, decay=0.5)


def fit_rectifier(
    rectifier: nn.Module,
    target: Target,
    pictures: Pictures,
    perturbations: Tensor,
    *,
    recipe: Recipe,
    seed: int,
    checkpoint: Path | None = None,
    on_iteration: OnIteration | None = None,
) -> None:
    """Train `rectifier` in place; the target's weights and buffers are not touched.

    Args:
        rectifier: maps `(B, C, H, W)` in [0, 1] to the same.
        target: the frozen classifier.
        pictures: clean training pictures; larger ones are cut at one of five places.
        perturbations: `(P, C, H, W)`, real and synthetic.
        recipe: rates and lengths.
        seed: of every random choice; each is a function of it and of the iteration.
        checkpoint: file to write the exact state to from time to time, and to go on from.
        on_iteration: told of every iteration.

    Raises:
        DataError: the loss stops being finite.
    """
    optimizer = torch.optim.Adam(
        rectifier.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.999)
    )
    per_epoch = max(1, len(pictures) // recipe.batch_size)
    iterations = max(1, round(recipe.epochs * per_epoch))
    begin = resume_training(checkpoint, rectifier, optimizer).done
    rectifier.train()
    running = 0.0
    for iteration in range(begin, iterations):
        if iteration % per_epoch == 0 or iteration == begin:
            epoch = iteration // per_epoch
            order = torch.randperm(len(pictures), generator=generator_for(seed, "epoch", epoch))
        place = iteration % per_epoch * recipe.batch_size
        positions = order[place : place + recipe.batch_size]
        generator = generator_for(seed, "rectifier", iteration)
        images = pictures.batch(positions, crops=generator)
        seen, _ = perturb_half(images, perturbations, generator)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * recipe.decay ** (iteration / 1000)
        loss = _loss(rectifier, target, images, seen)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        value = float(loss.detach())
        if not value < float("inf"):
            raise DataError(
                f"The rectifier's loss is {value} at iteration {iteration + 1}. Lower the learning "
                f"rate ({recipe.learning_rate:g}), or check the pictures."
            )
        running = value if iteration == begin else 0.98 * running + 0.02 * value
        done = iteration + 1
        if checkpoint is not None and (done % recipe.checkpoint_every == 0 or done == iterations):
            save_training(checkpoint, rectifier, optimizer, done=done)
        if on_iteration is not None:
            on_iteration(done, iterations, running)
    rectifier.eval()


def perturb_half(
    images: Tensor, perturbations: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Perturb each of `images` with probability one half by a random one of `perturbations`.

    Returns:
        The pictures, `(B, C, H, W)` in [0, 1], and which of them are perturbed, `(B,)` bool.
    """
    is_perturbed = torch.rand(len(images), generator=generator) < PERTURBED_SHARE
    chosen = torch.randint(len(perturbations), (len(images),), generator=generator)
    added = perturbations[chosen] * is_perturbed[:, None, None, None]
    return perturb(images, added), is_perturbed


def _loss(rectifier: nn.Module, target: Target, images: Tensor, seen: Tensor) -> Tensor:
    with torch.no_grad():
        labels = target(images).argmax(dim=1)
    return F.cross_entropy(target(rectifier(seen)), labels)
