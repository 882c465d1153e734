"""Training a rectifier, and a detector with it, one mini-batch at a time.

Every process draws the same mini-batches and computes its own part of each; their gradients are
averaged by hand, as in `training.processes`.
"""

from typing import final

import torch
from torch import Tensor, nn

from prn_guard.nn.target import Target
from training.guard.aim import Aim
from training.guard.joint_detector import RATE_FACTOR, JointDetector
from training.guard.recipe import Recipe
from training.guard.rectifier_batches import RectifierBatch
from training.guard.rectifier_loss import rectifier_loss
from training.processes import Processes


@final
class RectifierTraining:
    """What is trained, and how.

    Args:
        rectifier: maps `(B, C, H, W)` in [0, 1] to the same; trained in place.
        target: the frozen classifier, on the same device.
        recipe: the terms of the loss, precision, clipping.
        joint: trained too, in place; None trains the rectifier alone.
        together: the processes that train; None is this one alone.

    Raises:
        InvalidArgumentError: mini-batches that the processes cannot share evenly.
    """

    def __init__(
        self,
        rectifier: nn.Module,
        target: Target,
        *,
        recipe: Recipe,
        joint: JointDetector | None = None,
        together: Processes | None = None,
    ) -> None:
        self.rectifier, self.target, self.recipe, self.joint = rectifier, target, recipe, joint
        self.together = together or Processes()
        self.together.check_batch(recipe.batch_size)
        parts = [rectifier] if joint is None else [rectifier, joint]
        self.trained = nn.ModuleList(parts)
        """Everything that has weights to save."""
        factors = (1.0, RATE_FACTOR)
        self.optimizer = torch.optim.Adam(
            [
                {"params": [*part.parameters()], "factor": factor}
                for part, factor in zip(parts, factors, strict=False)
            ],
            lr=recipe.learning_rate,
            betas=(0.9, 0.999),
        )

    def step(self, batch: RectifierBatch, *, rate: float, aim: Aim | None = None) -> float:
        """Descend the loss of a mini-batch, and return it.

        Args:
            batch: of all processes.
            rate: the learning rate.
            aim: the perturbation that part of `batch` is under, where the gradient of what it is
                after is wanted too, averaged over the processes.
        """
        own, precision = batch.part(self.together), self.recipe.precision
        loss = rectifier_loss(
            self.rectifier,
            self.target,
            own,
            recipe=self.recipe,
            joint=self.joint,
            together=self.together,
        )
        self.optimizer.zero_grad()
        if aim is not None:
            objective = aim.objective(
                loss, own, target=self.target, joint=self.joint, precision=precision
            )
            aim.differentiate(objective)
        loss.total.backward(inputs=[*self.trained.parameters()])  # type: ignore[no-untyped-call]
        value = self._averaged(loss.total, None if aim is None else aim.perturbation)
        if value < float("inf"):
            self._descend(rate)
        return value

    def _averaged(self, loss: Tensor, held: Tensor | None) -> float:
        """Average the gradients over all processes, in place, and the loss, which is returned."""
        # The loss too, so that all processes or none stop where it is not finite.
        value = loss.detach().clone()
        leaves = (*self.trained.parameters(), *(() if held is None else (held,)))
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        self.together.average([value, *gradients])
        return float(value)

    def _descend(self, rate: float) -> None:
        """One step along the gradients, clipped where the recipe says so."""
        if self.recipe.largest_gradient is not None:
            torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.largest_gradient)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.step()
