"""Universal perturbations that are updated while the rectifier is trained against them.

Ours, after low-cost universal adversarial training (UAT paper, Algorithm 4), whose weights of a
classifier are here those of the rectifier, with the target untouched: part of each mini-batch is
under one of the held perturbations, and the gradient of the same backward pass moves it, by sign
ascent, through rectifier and target. No paper trains a rectifier so.

Each lives for `LIFE` updates whose steps shrink from two epsilons to a fiftieth, as those of a
whole attack do, and then begins anew at random: perturbations that only drift are soon outrun by a
rectifier that learns, and a fresh attack breaks what they no longer reach.
"""

from typing import Final, final

import torch
from torch import Tensor

from training.attacks.engine import Schedule
from training.attacks.norms import Norm, project, random_start, steepest_direction
from training.randomness import generator_for

HELD: Final = 4
LIFE: Final = 60


@final
class HeldPerturbations:
    """`HELD` perturbations, of which each iteration takes the next.

    Args:
        shape: `(C, H, W)`.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        seed: of the starts.
        kept: what `state` gave when the training was interrupted; None begins.
        device: where they are added to pictures.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        norm: Norm,
        epsilon: float,
        seed: int,
        kept: Tensor | None,
        device: torch.device,
    ) -> None:
        self._shape, self._norm, self._epsilon, self._seed = shape, norm, epsilon, seed
        self._schedule = Schedule(steps=LIFE)
        if kept is None:
            kept = torch.stack([self._start(number) for number in range(HELD)])
        self._all = kept.to(device)

    @property
    def state(self) -> Tensor:
        """All of them, `(HELD, C, H, W)`."""
        return self._all

    def at(self, iteration: int) -> Tensor:
        """The perturbation `(C, H, W)` of an iteration, to be differentiated by."""
        return self._all[iteration % HELD].clone().requires_grad_()

    def ascend(self, iteration: int, gradient: Tensor) -> None:
        """Move the perturbation of `iteration` along `gradient` `(C, H, W)`, or begin it anew."""
        place, age = iteration % HELD, iteration // HELD % LIFE
        if age == LIFE - 1:
            self._all[place] = self._start(iteration + HELD).to(self._all.device)
            return
        step = self._schedule.size(age, self._epsilon)
        moved = self._all[place] + step * steepest_direction(gradient, self._norm)
        self._all[place] = project(moved, self._norm, self._epsilon)

    def _start(self, number: int) -> Tensor:
        generator = generator_for(self._seed, "held perturbation", number)
        return random_start(self._shape, self._norm, self._epsilon, generator=generator)
