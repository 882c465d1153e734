"""What every universal attack is asked, and how a method says what it can do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from training.attacks.engine import OnStep
from training.attacks.fooling import Classifier
from training.attacks.losses import LossName
from training.attacks.norms import Norm
from training.datasets import Pictures

Option = Literal["target_class", "start", "steps", "loss"]
"""The fields of a job that not every method has a use for."""
OPTIONS: Final[tuple[Option, ...]] = get_args(Option)


@dataclass(frozen=True, kw_only=True)
class AttackJob:
    """What to craft, against what: the same for every method.

    Args:
        classifier: maps `(B, C, H, W)` float32 in [0, 1] to logits `(B, K)`, on the device of
            `pictures`.
        pictures: the crafting set.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        generator: CPU generator of every random choice.
        target_class: send every picture there; None drives each from its clean prediction.
        start: perturbation `(C, H, W)` to go on from; None lets the method begin as it does.
        steps: how long to go on, in the method's own unit; None takes its default.
        loss: what to ascend; None takes the method's default.
        on_step: told of every step.
    """

    classifier: Classifier
    pictures: Pictures
    norm: Norm
    epsilon: float
    generator: torch.Generator
    target_class: int | None = None
    start: Tensor | None = None
    steps: int | None = None
    loss: LossName | None = None
    on_step: OnStep | None = None


@dataclass(frozen=True, kw_only=True)
class Method:
    """One universal attack."""

    summary: str
    """One line for a list of methods."""
    family: str
    """What is held out together in an evaluation: methods of one family resemble each other."""
    craft: Callable[[AttackJob], Tensor]
    """Returns a perturbation `(C, H, W)` inside the ball, on the device of the pictures."""
    takes: frozenset[Option] = frozenset()
    """The options that have a meaning for it; others are refused."""
