"""The loop that gradient-based universal attacks share: draw, differentiate, step, project."""

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from training.attacks.norms import Norm, largest_value, project, steepest_direction
from training.attacks.objectives import Objective
from training.datasets import Pictures

Rule = Literal["sign-pgd", "sgd", "momentum", "adam"]
OnStep = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""
Until = Callable[[Tensor], bool]
"""Asked about the perturbations after every step; true ends the attack."""
GradientAt = Callable[[Tensor, int], Tensor]
Update = Callable[[Tensor, Tensor, int], Tensor]


FIRST_STEP = 2.0
LAST_STEP = 0.02
"""In epsilons. Steps that cross the ball at first leave poor corners behind, and short ones settle:
on LeNet and Fashion-MNIST at linf 0.15 the held-out fooling rate after 100 steps was 0.72 where all
steps together were 4 epsilons long, 0.79 with 20 and 0.81 with 40 and 80."""


@dataclass(frozen=True)
class Schedule:
    """Step sizes `travel * epsilon * decay^k / sum_j decay^j`, for k = 0 .. steps - 1.

    Source: shared adversarial training, section 5.2, where `travel` is called beta (4) and `decay`
    gamma (0.975). Departure: by default sizes fall from 2 epsilons to 0.02, whatever the number of
    steps, which gives travel and decay.
    """

    steps: int = 100
    travel: float | None = None
    decay: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InvalidArgumentError(f"steps is {self.steps}; expected at least 1.")

    def size(self, step: int, epsilon: float) -> float:
        """Length of step number `step`, in the units of `epsilon`."""
        decay = self.decay
        if decay is None:
            decay = (LAST_STEP / FIRST_STEP) ** (1 / max(1, self.steps - 1))
        first = FIRST_STEP
        if self.travel is not None:
            first = self.travel / sum(decay**k for k in range(self.steps))
        return first * epsilon * decay**step


def update_rule(
    rule: Rule,
    *,
    norm: Norm,
    epsilon: float,
    schedule: Schedule,
    moments: MutableMapping[str, Tensor] | None = None,
) -> Update:
    """The function that turns `(perturbations, gradient, step)` into the next perturbations.

    Each of the perturbations `(..., C, H, W)` moves by itself. `sign-pgd` steps along the steepest
    direction of the norm; `sgd` and `momentum` along the gradient itself, scaled so that its
    largest value has the length of the step; `adam` along bias-corrected moments (0.9, 0.999).

    Args:
        rule: which of them.
        norm: of the ball.
        epsilon: its radius.
        schedule: sizes of the steps.
        moments: where `momentum` and `adam` keep theirs, as "first moment" and "second moment";
            None keeps them with the function.

    Raises:
        InvalidArgumentError: an unknown rule.
    """
    kept: MutableMapping[str, Tensor] = {} if moments is None else moments

    def direction(gradient: Tensor, step: int) -> Tensor:
        if rule == "sign-pgd":
            return steepest_direction(gradient, norm)
        if rule == "sgd":
            return gradient / largest_value(gradient)
        first = kept.setdefault("first moment", torch.zeros_like(gradient))
        first.mul_(0.9).add_(gradient, alpha=0.1)
        if rule == "momentum":
            return first / largest_value(first)
        second = kept.setdefault("second moment", torch.zeros_like(gradient))
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        mean = first / (1 - 0.9 ** (step + 1))
        deviation = (second / (1 - 0.999 ** (step + 1))).sqrt()
        return mean / (deviation + 1e-12)

    def update(perturbations: Tensor, gradient: Tensor, step: int) -> Tensor:
        moved = perturbations + schedule.size(step, epsilon) * direction(gradient, step)
        return project(moved, norm, epsilon)

    if rule not in {"sign-pgd", "sgd", "momentum", "adam"}:
        raise InvalidArgumentError(
            f"rule is {rule!r}; expected 'sign-pgd', 'sgd', 'momentum' or 'adam'."
        )
    return update


def ascend(
    objective: Objective,
    pictures: Pictures,
    start: Tensor,
    *,
    update: Update,
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    until: Until | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Ascend `objective` from `start` `(P, C, H, W)`, one random mini-batch per step.

    Memory does not grow with the number of pictures: only one batch is held at a time, and a
    perturbation is never copied per picture.

    Returns:
        `(P, C, H, W)` on the device of the pictures.
    """

    def gradient_at(leaf: Tensor, _: int) -> Tensor:
        positions = torch.randint(len(pictures), (batch_size,), generator=generator)
        value = objective(pictures.batch(positions), positions, leaf).sum()
        return torch.autograd.grad(value, leaf)[0]

    begin = start.to(pictures.device)
    return climb(gradient_at, begin, update=update, steps=steps, until=until, on_step=on_step)


def climb(
    gradient_at: GradientAt,
    start: Tensor,
    *,
    update: Update,
    steps: int,
    until: Until | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Take `steps` steps from `start`, each along the gradient where the last one ended.

    Args:
        gradient_at: the gradient at perturbations, which it may differentiate by, at a step.
        start: `(..., C, H, W)`, where the gradients are computed.
        update: turns perturbations, gradient and step into the next perturbations.
        steps: how many.
        until: asked about the perturbations after every step; true ends the walk.
        on_step: told of every step.
    """
    perturbations = start.detach()
    for step in range(steps):
        gradient = gradient_at(perturbations.detach().requires_grad_(), step)
        perturbations = update(perturbations, gradient, step)
        if on_step is not None:
            on_step(step + 1, steps)
        if until is not None and until(perturbations):
            break
    return perturbations
