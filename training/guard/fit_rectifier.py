"""Training the rectifier in front of the frozen target.

Source: PRN paper, sections 4.1 and 4.2. What is seen stands in `rectifier_batches`, what is
minimised in `rectifier_loss`, rates and lengths in `recipe`, each with its departures.

Every process draws the same mini-batches and computes its own part of each; their gradients are
averaged by hand, as in `training.processes`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from prn_guard.errors import DataError
from prn_guard.nn.target import Target
from training.attacks.norms import Norm
from training.checkpoint import resume_training, save_training
from training.datasets import Pictures
from training.guard.recipe import Recipe
from training.guard.rectifier_batches import draw_batch
from training.guard.rectifier_loss import rectifier_loss
from training.processes import Processes
from training.randomness import generator_for

OnIteration = Callable[[int, int, float], None]
"""Called with the iterations done, the iterations in all, and the running loss."""


def fit_rectifier(
    rectifier: nn.Module,
    target: Target,
    pictures: Pictures,
    perturbations: Tensor,
    *,
    norm: Norm,
    epsilon: float,
    recipe: Recipe,
    seed: int,
    together: Processes | None = None,
    checkpoint: Path | None = None,
    on_iteration: OnIteration | None = None,
) -> None:
    """Train `rectifier` in place; the target's weights and buffers are not touched.

    Args:
        rectifier: maps `(B, C, H, W)` in [0, 1] to the same; on the device of the pictures.
        target: the frozen classifier, there too.
        pictures: clean training pictures; larger ones are cut at one of five places.
        perturbations: `(P, C, H, W)`, real and synthetic.
        norm: of the ball that they lie in.
        epsilon: its radius on [0, 1] pixels.
        recipe: rates and lengths.
        seed: of every random choice; each is a function of it and of the iteration.
        together: the processes that train; None is this one alone.
        checkpoint: file to write the exact state to from time to time, and to go on from.
        on_iteration: told of every iteration.

    Raises:
        DataError: the loss stops being finite.
        InvalidArgumentError: mini-batches that the processes cannot share evenly.
    """
    together = together or Processes()
    together.check_batch(recipe.batch_size)
    optimizer = torch.optim.Adam(
        rectifier.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.999)
    )
    bank = perturbations.to(pictures.device)
    iterations = max(1, round(recipe.epochs * _per_epoch(pictures, recipe)))
    begin = resume_training(checkpoint, rectifier, optimizer).done
    rectifier.train()
    running = 0.0
    for iteration, positions in _orders(pictures, recipe, begin, iterations, seed):
        batch = draw_batch(
            pictures,
            positions,
            bank,
            recipe=recipe,
            norm=norm,
            epsilon=epsilon,
            generator=generator_for(seed, "rectifier", iteration),
        ).part(together)
        loss = rectifier_loss(rectifier, target, batch, recipe=recipe)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        value = _averaged(rectifier, loss, together)
        if not value < float("inf"):
            raise DataError(
                f"The rectifier's loss is {value} at iteration {iteration + 1}. Lower the learning "
                f"rate ({recipe.learning_rate:g}), or check the pictures."
            )
        _descend(rectifier, optimizer, recipe, rate=recipe.rate(iteration, iterations))
        running = value if iteration == begin else 0.98 * running + 0.02 * value
        done = iteration + 1
        at_checkpoint = done % recipe.checkpoint_every == 0 or done == iterations
        if checkpoint is not None and at_checkpoint and together.leads:
            save_training(checkpoint, rectifier, optimizer, done=done)
        if on_iteration is not None:
            on_iteration(done, iterations, running)
    rectifier.eval()


def _per_epoch(pictures: Pictures, recipe: Recipe) -> int:
    return max(1, len(pictures) // recipe.batch_size)


def _orders(
    pictures: Pictures, recipe: Recipe, begin: int, iterations: int, seed: int
) -> Iterator[tuple[int, Tensor]]:
    """Each iteration from `begin` on and its pictures `(B,)`; each epoch has its own order."""
    per_epoch = _per_epoch(pictures, recipe)
    for iteration in range(begin, iterations):
        epoch, place = divmod(iteration, per_epoch)
        if place == 0 or iteration == begin:
            order = torch.randperm(len(pictures), generator=generator_for(seed, "epoch", epoch))
        yield iteration, order[place * recipe.batch_size : (place + 1) * recipe.batch_size]


def _averaged(rectifier: nn.Module, loss: Tensor, together: Processes) -> float:
    """Average the gradients over all processes, in place, and the loss, which is returned."""
    # The loss too, so that all processes or none stop where it is not finite.
    value = loss.detach().clone()
    gradients = [weight.grad for weight in rectifier.parameters() if weight.grad is not None]
    together.average([value, *gradients])
    return float(value)


def _descend(
    rectifier: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, *, rate: float
) -> None:
    """One step along the gradients, clipped where the recipe says so."""
    if recipe.largest_gradient is not None:
        torch.nn.utils.clip_grad_norm_(rectifier.parameters(), recipe.largest_gradient)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
