"""Training the rectifier in front of the frozen target.

Source: PRN paper, sections 4.1 and 4.2. What is seen stands in `rectifier_batches`, what is
minimised in `rectifier_loss`, rates and lengths in `recipe`, perturbations that are moved at the
same time in `held_perturbations`, what these are after in `aim`, each with its departures.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from prn_guard.errors import DataError
from training.attacks.norms import Norm
from training.checkpoint import resume_training, save_training
from training.datasets import Pictures
from training.guard.aim import Aim
from training.guard.held_perturbations import HeldPerturbations
from training.guard.recipe import Recipe
from training.guard.rectifier_batches import RectifierBatch, aimed_at, draw_batch
from training.guard.rectifier_training import RectifierTraining
from training.randomness import generator_for

OnIteration = Callable[[int, int, float], None]
"""Called with the iterations done, the iterations in all, and the running loss."""
HELD = "held perturbations"


def fit_rectifier(
    training: RectifierTraining,
    pictures: Pictures,
    perturbations: Tensor,
    *,
    norm: Norm,
    epsilon: float,
    seed: int,
    checkpoint: Path | None = None,
    on_iteration: OnIteration | None = None,
) -> None:
    """Train the rectifier in place; the target's weights and buffers are not touched.

    Args:
        training: rectifier, target and recipe, on the device of the pictures.
        pictures: clean training pictures; larger ones are cut at one of five places.
        perturbations: `(P, C, H, W)`, real and synthetic.
        norm: of the ball that they lie in.
        epsilon: its radius on [0, 1] pixels.
        seed: of every random choice; each is a function of it and of the iteration.
        checkpoint: file to write the exact state to from time to time, and to go on from.
        on_iteration: told of every iteration.

    Raises:
        DataError: the loss stops being finite.
    """
    recipe = training.recipe
    bank = perturbations.to(pictures.device)
    iterations = max(1, round(recipe.epochs * _per_epoch(pictures, recipe)))
    resumed = resume_training(checkpoint, training.trained, training.optimizer)
    held = None
    if recipe.adversarial_share:
        held = HeldPerturbations(
            pictures.shape, norm=norm, epsilon=epsilon, seed=seed, kept=resumed.kept.get(HELD),
            device=pictures.device,
        )  # fmt: skip
    training.trained.train()
    running = 0.0
    for iteration, positions in orders(pictures, recipe, resumed.done, iterations, seed):
        generator = generator_for(seed, "rectifier", iteration)
        batch = draw_batch(
            pictures, positions, bank, recipe=recipe, norm=norm, epsilon=epsilon,
            generator=generator,
        )  # fmt: skip
        rate = recipe.rate(iteration, iterations)
        value = _step(training, batch, held, iteration, rate=rate)
        running = value if iteration == resumed.done else 0.98 * running + 0.02 * value
        done = iteration + 1
        at_checkpoint = done % recipe.checkpoint_every == 0 or done == iterations
        if checkpoint is not None and at_checkpoint and training.together.leads:
            kept = {} if held is None else {HELD: held.state}
            save_training(checkpoint, training.trained, training.optimizer, done=done, kept=kept)
        if on_iteration is not None:
            on_iteration(done, iterations, running)
    training.trained.eval()


def _step(
    training: RectifierTraining,
    batch: RectifierBatch,
    held: HeldPerturbations | None,
    iteration: int,
    *,
    rate: float,
) -> float:
    """One step of the weights, and of the held perturbation that part of the batch is under."""
    aim = None
    if held is not None:
        aim = Aim(perturbation=held.at(iteration), evades=held.evades(iteration))
        share = training.recipe.adversarial_share
        batch = aimed_at(batch, aim.perturbation[None], share)
    value = training.step(batch, rate=rate, aim=aim)
    check_finite(value, iteration, training.recipe)
    if held is not None and aim is not None and aim.perturbation.grad is not None:
        held.ascend(iteration, aim.perturbation.grad)
    return value


def check_finite(value: float, iteration: int, recipe: Recipe) -> None:
    """Refuse to go on from a loss that is not finite.

    Raises:
        DataError: it is not.
    """
    if not value < float("inf"):
        raise DataError(
            f"The rectifier's loss is {value} at iteration {iteration + 1}. Lower the learning "
            f"rate ({recipe.learning_rate:g}), or check the pictures."
        )


def orders(
    pictures: Pictures, recipe: Recipe, begin: int, end: int, seed: int
) -> Iterator[tuple[int, Tensor]]:
    """Each iteration in `begin..end - 1` and its pictures `(B,)`; each epoch has its own order."""
    per_epoch = _per_epoch(pictures, recipe)
    for iteration in range(begin, end):
        epoch, place = divmod(iteration, per_epoch)
        if place == 0 or iteration == begin:
            order = torch.randperm(len(pictures), generator=generator_for(seed, "epoch", epoch))
        yield iteration, order[place * recipe.batch_size : (place + 1) * recipe.batch_size]


def _per_epoch(pictures: Pictures, recipe: Recipe) -> int:
    return max(1, len(pictures) // recipe.batch_size)
