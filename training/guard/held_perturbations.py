"""Universal perturbations that are updated while rectifier and detector are trained against them.

Ours, after low-cost universal adversarial training (UAT paper, Algorithm 4): part of each
mini-batch is under one of the held perturbations, which then steps along the gradient of what it is
after. Half of them go through the rectifier; the others fool the bare target and stay below the
detector's threshold, which is what a guard learns last. No paper trains a rectifier so.

Departures: the weights are those of rectifier and detector, with the target untouched; the forward
pass is shared, the backward pass is not, because a perturbation ascends another objective than the
weights descend (`training.guard.aim`). Steps are those of MI-FGSM (Dong et al. 2018, Algorithm 1),
averaged instead of summed: the steepest direction of a running mean of gradients of one scale. They
shrink from half an epsilon to a twentieth over `LIFE - 1` of them; then the perturbation begins
anew: those that only drift are soon outrun by a rectifier that learns, and a fresh attack breaks
what they no longer reach.
"""

from typing import Final, final

import torch
from torch import Tensor

from training.attacks.norms import Norm, project, random_start, steepest_direction
from training.randomness import generator_for

HELD: Final = 8
LIFE: Final = 60
FIRST_STEP: Final = 0.5
LAST_STEP: Final = 0.05
"""In epsilons."""
MOMENTUM: Final = 0.7
"""Weight of the gradients before, beside that of the latest."""


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
        if kept is None:
            starts = torch.stack([self._start(number) for number in range(HELD)])
            kept = torch.stack([starts, torch.zeros_like(starts)])
        held = kept.to(device)
        self._all, self._means = held[0], held[1]

    @property
    def state(self) -> Tensor:
        """All of them and the running means of their gradients, `(2, HELD, C, H, W)`."""
        return torch.stack([self._all, self._means])

    def at(self, iteration: int) -> Tensor:
        """The perturbation `(C, H, W)` of an iteration, to be differentiated by."""
        return self._all[iteration % HELD].clone().requires_grad_()

    @staticmethod
    def evades(iteration: int) -> bool:
        """Whether that of an iteration is to stay below the detector's threshold."""
        return iteration % 2 == 1

    def ascend(self, iteration: int, gradient: Tensor) -> None:
        """Move the perturbation of `iteration` along `gradient` `(C, H, W)`, or begin it anew."""
        place, age = iteration % HELD, iteration // HELD % LIFE
        if age == LIFE - 1:
            self._all[place] = self._start(iteration + HELD).to(self._all.device)
            self._means[place] = 0
            return
        # Of one scale, so that no mini-batch outweighs those before.
        latest = gradient / gradient.abs().mean().clamp(min=1e-12)
        self._means[place].lerp_(latest, 1 - MOMENTUM)
        step = self._epsilon * FIRST_STEP * (LAST_STEP / FIRST_STEP) ** (age / LIFE)
        moved = self._all[place] + step * steepest_direction(self._means[place], self._norm)
        self._all[place] = project(moved, self._norm, self._epsilon)

    def _start(self, number: int) -> Tensor:
        generator = generator_for(self._seed, "held perturbation", number)
        return random_start(self._shape, self._norm, self._epsilon, generator=generator)
