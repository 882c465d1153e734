"""What every hardening method shares: mini-batches, steps, and a state that can be resumed.

A method is a loop over `Trainer.minibatches()` that reads like its paper; all that the papers leave
out (order of pictures, augmentation, learning rates, precision, several processes, checkpoints,
validation) happens here. Every random choice is a function of the seed and the number of the step,
so that an interrupted training ends with the same bits on the CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.nn import functional as F

from prn_guard.errors import DataError
from prn_guard.nn.target import Target
from training.checkpoint import Resumed, resume_training, save_training
from training.datasets import Pictures
from training.hardening.augmentation import augment
from training.hardening.modes import modes_agree
from training.hardening.recipe import Recipe
from training.processes import Processes
from training.randomness import generator_for
from training.twice_differentiable import twice_differentiable

Validate = Callable[[int], bool]
"""Asked after every epoch, by its number from 1; true ends the training."""
OnStep = Callable[[int, int, float], None]
"""Told of the steps done, the steps in all and the running loss."""
Penalty = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps images `(B, C, H, W)`, which require gradients, their logits `(B, K)`, computed as deployed,
and labels `(B,)` to one value per picture, `(B,)`."""
Weigh = Callable[[Tensor, int], Tensor]
"""Maps the sum `()` of a penalty and the number of pictures to what is added to the loss."""
STEPS_BETWEEN_CHECKPOINTS: Final = 500


@final
class Trainer:
    """One training of one network.

    Args:
        target: the classifier, on its device; its weights are changed in place.
        pictures: to train on.
        recipe: rates and lengths.
        seed: of every random choice.
        checkpoint: file of the exact state, to go on from and to write; None keeps none.
        processes: those that train together.
        micro_batch: pictures whose penalty is computed at once; None takes all of a mini-batch.
        mixed_precision: compute forward passes of cross-entropies in bfloat16. Penalties, which
            are differentiated twice, stay in float32.
        validate: asked after every epoch.
        on_step: told of every step.

    Raises:
        DataError: fewer pictures than one mini-batch.
        InvalidArgumentError: mini-batches that the processes cannot share evenly.
        ArtifactError: the checkpoint is damaged or another training's.
        TargetError: the network has no weights, or auxiliary heads.
    """

    def __init__(
        self,
        target: Target,
        pictures: Pictures,
        *,
        recipe: Recipe,
        seed: int,
        checkpoint: Path | None = None,
        processes: Processes | None = None,
        micro_batch: int | None = None,
        mixed_precision: bool = False,
        validate: Validate | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        self.processes = processes or Processes()
        self.processes.check_batch(recipe.batch_size)
        if len(pictures) < recipe.batch_size:
            raise DataError(
                f"There are {len(pictures)} pictures to train on, fewer than one mini-batch of "
                f"{recipe.batch_size}. Give more pictures, or a smaller --batch-size."
            )
        self.target = target
        self.pictures = pictures
        self.recipe = recipe
        self._seed = seed
        self._checkpoint = checkpoint
        self._micro_batch = micro_batch
        self._mixed_precision = mixed_precision
        self._validate = validate
        self._on_step = on_step
        self._per_epoch = len(pictures) // recipe.batch_size
        self._running: float | None = None
        target.classifier.requires_grad_()
        self._modes_agree = modes_agree(target)
        self.device = next(target.parameters()).device
        self._optimizer = recipe.build(target.classifier)
        resumed = Resumed()
        if checkpoint is not None and checkpoint.exists():
            resumed = resume_training(checkpoint, target.classifier, self._optimizer)
        self.step = resumed.done
        self.state: dict[str, Tensor] = {
            name: value.to(self.device) for name, value in resumed.kept.items()
        }
        """What a method keeps between steps; it survives interruptions."""
        self._ended = bool(resumed.facts.get("ended", False))

    def minibatches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw mini-batches, each epoch in a new order, until the training ends.

        Yields:
            this process's images `(B, C, H, W)` float32 in [0, 1], augmented, and their labels
            `(B,)`; the method is to call `descend` once for each.
        """
        steps = self.recipe.epochs * self._per_epoch
        # Once: a subset selects the labels of all its pictures anew whenever it is asked.
        labels = self.pictures.labels
        order = torch.empty(0, dtype=torch.int64)
        self.target.classifier.train()
        while self.step < steps and not self._ended:
            epoch, place = divmod(self.step, self._per_epoch)
            if place == 0 or not len(order):
                order = torch.randperm(
                    len(self.pictures), generator=generator_for(self._seed, "epoch", epoch)
                )
            size = self.recipe.batch_size
            positions = self.processes.own(order[place * size : (place + 1) * size])
            images = self.pictures.batch(positions).to(self.device)
            images = augment(images, self.recipe.augmentation, self.generator("augmentation"))
            # Dropout draws from the global generator, which no checkpoint holds.
            torch.manual_seed(self.generator("dropout").initial_seed())
            yield images, labels[positions].to(self.device)
            self.step += 1
            self._end_step(steps)
        self._optimizer.zero_grad()
        self.target.classifier.eval()
        self.target.requires_grad_(requires_grad=False)

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator for a choice of this step, another in each process."""
        if self.processes.rank:
            purpose = f"{purpose} of process {self.processes.rank}"
        return generator_for(self._seed, purpose, self.step)

    def logits(self, images: Tensor) -> Tensor:
        """Logits `(B, K)` float32 of the network in training mode."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._mixed_precision):
            logits: Tensor = self.target(images)
        return logits.float()

    @contextmanager
    def as_deployed(self) -> Iterator[Target]:
        """The network in evaluation mode: stored batch statistics, no dropout.

        Attacks and Jacobians are of this network, the one that will answer.
        """
        self.target.classifier.eval()
        try:
            yield self.target
        finally:
            self.target.classifier.train()

    def descend(self, loss: Tensor) -> None:
        """One step of the optimiser down the gradient of `loss`, a mean over this process's part.

        Raises:
            DataError: the loss is not finite.
        """
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._take_step(float(loss.detach()))

    def descend_penalised(
        self,
        seen: Tensor,
        labels: Tensor,
        images: Tensor,
        penalty: Penalty,
        weigh: Weigh,
    ) -> None:
        """One step down the gradient of `cross-entropy + weigh(sum of penalty over pictures)`.

        The penalty is of the network as deployed, so that a picture's Jacobian is its own even
        under batch normalisation, and so that memory can be bounded: it is computed for
        `micro_batch` pictures at a time. A network that is the same in training and evaluation
        mode is run once for both terms, if they are of the same pictures, all in one piece.

        Args:
            seen: `(B, C, H, W)`, for the mean cross-entropy, in training mode.
            labels: `(B,)`, of both.
            images: `(B, C, H, W)`, for the penalty.
            penalty: of each picture.
            weigh: what becomes of the sum in the loss.

        Raises:
            DataError: the loss is not finite.
        """
        self._optimizer.zero_grad()
        size = self._micro_batch or len(images)
        together = self._modes_agree and not self._mixed_precision and seen is images
        if together and self.processes.count == 1 and size >= len(images):
            watched = images.detach().requires_grad_()
            logits = self.target(watched)
            added = weigh(penalty(watched, logits, labels).sum(), len(images))
            loss = F.cross_entropy(logits, labels) + added
        else:
            added = self._add_gradient(images, labels, penalty, weigh, size)
            loss = F.cross_entropy(self.logits(seen), labels) + added
        # By the weights alone: nobody asks for the gradient by the pictures, which are leaves too.
        loss.backward(inputs=self._weights())  # type: ignore[no-untyped-call]
        self._take_step(float(loss.detach()))

    def _add_gradient(
        self,
        images: Tensor,
        labels: Tensor,
        penalty: Penalty,
        weigh: Weigh,
        size: int,
    ) -> Tensor:
        """Leave the gradient of the weighed penalty in the weights; returns its value `()`."""
        total = torch.zeros((), device=self.device)
        with self.as_deployed() as network:
            for begin in range(0, len(images), size):
                watched = images[begin : begin + size].detach().requires_grad_()
                with twice_differentiable():
                    logits = network(watched)
                values = penalty(watched, logits, labels[begin : begin + size]).sum()
                values.backward(inputs=self._weights())  # type: ignore[no-untyped-call]
                total += values.detach()
        # By the chain rule: gradients of the sum, times the derivative of what becomes of it. The
        # sum is over all processes, so that their mean gradient is that of the whole mini-batch.
        self.processes.average([total])
        total.mul_(self.processes.count).requires_grad_()
        added = weigh(total, len(images) * self.processes.count)
        factor = torch.autograd.grad(added, total)[0] * self.processes.count
        for weight in self._weights():
            if weight.grad is not None:
                weight.grad.mul_(factor)
        return added.detach()

    def _weights(self) -> list[Tensor]:
        return [weight for weight in self.target.classifier.parameters() if weight.requires_grad]

    def _take_step(self, loss: float) -> None:
        if not abs(loss) < float("inf"):
            raise DataError(
                f"The loss is {loss} at step {self.step + 1}. Lower the learning rate "
                f"({self.recipe.learning_rate:g}) or the method's weight, or check the pictures."
            )
        weights = self._weights()
        self.processes.average(weight.grad for weight in weights if weight.grad is not None)
        if self.recipe.largest_gradient is not None:
            torch.nn.utils.clip_grad_norm_(weights, self.recipe.largest_gradient)
        rate = self.recipe.rate(self.step / (self.recipe.epochs * self._per_epoch))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._running = loss if self._running is None else 0.98 * self._running + 0.02 * loss

    def _end_step(self, steps: int) -> None:
        if self._on_step is not None:
            self._on_step(self.step, steps, self._running or 0.0)
        at_end = self.step % self._per_epoch == 0
        if not at_end and self.step % STEPS_BETWEEN_CHECKPOINTS:
            return
        # Before every checkpoint, because all processes will go on from the leader's.
        self.processes.average(
            value for value in self.target.classifier.buffers() if value.is_floating_point()
        )
        if at_end and self._validate is not None:
            with self.as_deployed():
                self._ended = self._validate(self.step // self._per_epoch)
        self._save()

    def _save(self) -> None:
        if self._checkpoint is None or not self.processes.leads:
            return
        facts: dict[str, Any] = {"ended": self._ended}
        save_training(
            self._checkpoint,
            self.target.classifier,
            self._optimizer,
            done=self.step,
            kept=self.state,
            facts=facts,
        )
