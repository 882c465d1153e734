"""Universal random search: squares of random colour, kept where a guard gets fewer pictures right.

Source: Andriushchenko, Croce, Flammarion and Hein 2020, "Square Attack: a query-efficient black-box
adversarial attack via random search", Algorithms 1 and 2: start from vertical stripes of +-epsilon,
propose a square of +-epsilon, one sign per channel, at a random place, and keep it if the loss
falls; the share of the picture that a square covers is halved as the search goes on.

Departures: one perturbation for a batch of pictures, and the loss is how many of them are right, so
that only labels are asked for; such a count has plateaus, on which the search moves sideways: a
square that changes nothing is kept too. In l2 the same patterns of signs are scaled to the ball,
where the source has an algorithm of its own.
"""

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from training.attacks.engine import OnStep
from training.attacks.norms import Norm, check_ball, norm_of
from training.datasets.fitting import Shape

LARGEST_SHARE: Final = 0.8
"""Of the picture, that the first squares cover; the setting of AutoAttack."""
HALVED_AT: Final = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the search after which squares cover half as much; the source's schedule."""


def universal_random_search(
    right: Callable[[Tensor], int],
    shape: Shape,
    *,
    norm: Norm,
    epsilon: float,
    steps: int,
    generator: torch.Generator,
    on_step: OnStep | None = None,
) -> tuple[Tensor, list[int]]:
    """A perturbation `(C, H, W)` of norm `epsilon`, on the CPU, and the counts along the search.

    Args:
        right: how many pictures the attacked classifier gets right under a perturbation.
        shape: `(C, H, W)`.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.
        steps: proposals; each is one question about all pictures.
        generator: of every random choice.
        on_step: told of every proposal.

    Raises:
        InvalidArgumentError: a ball that makes no sense.
    """
    check_ball(norm, epsilon, shape)
    channels, height, width = shape
    pattern = random_signs((channels, 1, width), generator).expand(shape).clone()
    counts = [right(to_ball(pattern, norm, epsilon))]
    for step in range(steps):
        side = square_side(step / steps, height, width)
        top = int(torch.randint(height - side + 1, (), generator=generator))
        left = int(torch.randint(width - side + 1, (), generator=generator))
        proposal = pattern.clone()
        square = random_signs((channels, 1, 1), generator)
        proposal[:, top : top + side, left : left + side] = square
        count = right(to_ball(proposal, norm, epsilon))
        if count <= counts[-1]:
            pattern = proposal
        counts.append(min(count, counts[-1]))
        if on_step is not None:
            on_step(step + 1, steps)
    return to_ball(pattern, norm, epsilon), counts


def square_side(done: float, height: int, width: int) -> int:
    """Side of a square when the share `done`, 0 to 1, of the search is over."""
    halvings = sum(done >= mark for mark in HALVED_AT)
    side = round(math.sqrt(LARGEST_SHARE * height * width / 2**halvings))
    return max(1, min(side, height, width))


def random_signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """+1 or -1, evenly, of `shape`."""
    return torch.randint(2, shape, generator=generator) * 2.0 - 1.0


def to_ball(pattern: Tensor, norm: Norm, epsilon: float) -> Tensor:
    """A pattern `(C, H, W)` of signs, brought to norm `epsilon`."""
    return pattern * (epsilon / norm_of(pattern, norm))
