"""How an ascent grows: the guard's accuracy at some of its steps, on pictures kept apart."""

from typing import Final, TypedDict, final

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from prn_guard.nn.guarded import GuardedClassifier
from training.datasets import Pictures, batch_for, batches
from training.evaluation.outcomes import BATCH, as_delivered

STEPS_WATCHED: Final = (0, 50, 100, 200, 400, 700, 1000)


class Look(TypedDict):
    """What was seen after so many gradients."""

    step: int
    guarded_accuracy: float


@torch.no_grad()
def pictures_right(guarded: GuardedClassifier, pictures: Pictures, perturbation: Tensor) -> int:
    """How many `pictures` the deployed guard gets right under `perturbation` `(C, H, W)`."""
    right = 0
    perturbation = perturbation.to(pictures.device)
    for images, labels in batches(pictures, batch_for(pictures.shape, BATCH)):
        answered = guarded(as_delivered(images, perturbation)).label
        right += int((answered.cpu() == labels).sum())
    return right


@final
class Watch:
    """Looks at an ascent now and then, and keeps the point that hurts the guard most.

    A surrogate's loss may rise while the guard itself recovers: an attacker who can ask the guard
    keeps what it is worst at, by pictures that the attack does not see.

    Args:
        guarded: the guard.
        pictures: of the attacker, not crafted on.
        rounds: steps of the whole ascent.
        stride: gradients that one of them stands for.
    """

    def __init__(
        self, guarded: GuardedClassifier, pictures: Pictures, *, rounds: int, stride: int = 1
    ) -> None:
        self._guarded = guarded
        self._pictures = pictures
        self._rounds = rounds
        self._stride = stride
        self._done = 0
        self._fewest = len(pictures)
        self._best: Tensor | None = None
        self.curve: list[Look] = []
        """Every look, in order."""

    @property
    def best(self) -> Tensor:
        """The point `(C, H, W)` under which the guard gets the fewest pictures right.

        Raises:
            InvalidArgumentError: nothing was looked at.
        """
        if self._best is None:
            raise InvalidArgumentError("No point was looked at yet: call `look` at the start.")
        return self._best

    def look(self, perturbation: Tensor) -> None:
        """Judge `perturbation` `(C, H, W)` as the point that the ascent has reached."""
        right = pictures_right(self._guarded, self._pictures, perturbation)
        accuracy = right / len(self._pictures)
        self.curve.append(Look(step=self._done * self._stride, guarded_accuracy=accuracy))
        # The later of two that are equally strong: it has seen more pictures.
        if right <= self._fewest:
            self._fewest, self._best = right, perturbation.detach().clone()

    def until(self, perturbations: Tensor) -> bool:
        """Told of `(1, C, H, W)` after every step; never ends the ascent."""
        before, now = self._done * self._stride, (self._done + 1) * self._stride
        self._done += 1
        if self._done >= self._rounds or any(before < step <= now for step in STEPS_WATCHED):
            self.look(perturbations[0])
        return False
