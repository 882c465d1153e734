"""Varied perturbations: what a bank of a few dozen becomes before each is added to a picture.

Ours; the PRN paper trains on its bank and on synthetic perturbations as they are. A member is

1. mixed, with probability 0.4, with another one: a random convex combination, scaled up to twice
   the mean l2 norm of the two, then projected onto the ball. In linf the values on which both agree
   end in the corners of the ball, as those of a crafted perturbation are;
2. reversed in sign, with probability 0.25;
3. shifted cyclically by a random offset, with probability 0.3;
4. scaled by a factor uniform in 0.75..1.25, which is a perturbation of another epsilon.

So the result lies in the ball of 1.25 times the radius.
"""

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from training.attacks.norms import Norm, norm_of, project

MIXED: Final = 0.4
REVERSED: Final = 0.25
SHIFTED: Final = 0.3
SMALLEST_FACTOR: Final = 0.75
LARGEST_FACTOR: Final = 1.25
GAIN: Final = 2.0
"""Of a mixture before it is projected: two orthogonal members of equal weight lose a factor of
1.4, and what is beyond the ball is cut off."""


@final
@dataclass(frozen=True, kw_only=True)
class Variation:
    """How each of `B` perturbations is varied; all tensors on the CPU."""

    others: Tensor
    """`(B,)` int64: the member to mix with, as an index into the bank."""
    shares: Tensor
    """`(B,)` in [0, 1]: weight of the member itself in the mixture; 1 where none is mixed."""
    reversed: Tensor
    """`(B,)` bool."""
    offsets: Tensor
    """`(B, 2)` int64, in 0..H-1 and 0..W-1: how far each is shifted down and to the right."""
    factors: Tensor
    """`(B,)` in 0.75..1.25."""


def draw_variation(
    count: int, members: int, shape: tuple[int, int], generator: torch.Generator
) -> Variation:
    """Draw how `count` perturbations of height and width `shape`, out of `members`, are varied."""

    def happens(probability: float) -> Tensor:
        return torch.rand(count, generator=generator) < probability

    others = torch.randint(members, (count,), generator=generator)
    shares = torch.rand(count, generator=generator)
    shares = torch.where(happens(MIXED), shares, torch.ones(()))
    offsets = torch.stack(
        [torch.randint(side, (count,), generator=generator) for side in shape], dim=1
    )
    offsets = offsets * happens(SHIFTED)[:, None]
    span = LARGEST_FACTOR - SMALLEST_FACTOR
    return Variation(
        others=others,
        shares=shares,
        reversed=happens(REVERSED),
        offsets=offsets,
        factors=SMALLEST_FACTOR + span * torch.rand(count, generator=generator),
    )


def varied(
    bank: Tensor, chosen: Tensor, variation: Variation, *, norm: Norm, epsilon: float
) -> Tensor:
    """Vary members of a bank, as drawn.

    Args:
        bank: `(P, C, H, W)`, in the ball.
        chosen: `(B,)` int64 on the CPU, indices into the bank.
        variation: of each of them.
        norm: of the ball.
        epsilon: its radius on [0, 1] pixels.

    Returns:
        `(B, C, H, W)`, in the ball of 1.25 times the radius, on the device of `bank`.
    """
    perturbations = bank[chosen]
    mixed = (variation.shares < 1).nonzero().flatten()
    perturbations[mixed] = mixtures(
        perturbations[mixed],
        bank[variation.others[mixed]],
        variation.shares[mixed].to(bank.device),
        norm=norm,
        epsilon=epsilon,
    )
    signs = torch.where(variation.reversed, -1.0, 1.0)
    factors = (signs * variation.factors).to(bank.device)
    return shifted(perturbations, variation.offsets) * factors[:, None, None, None]


def vary(
    bank: Tensor, chosen: Tensor, generator: torch.Generator, *, norm: Norm, epsilon: float
) -> Tensor:
    """Draw how members of a bank are varied, and vary them; arguments as of `varied`.

    Returns:
        `(B, C, H, W)`, in the ball of 1.25 times the radius, on the device of `bank`.
    """
    height, width = bank.shape[2:]
    variation = draw_variation(len(chosen), len(bank), (height, width), generator)
    return varied(bank, chosen, variation, norm=norm, epsilon=epsilon)


def mixtures(
    first: Tensor, second: Tensor, shares: Tensor, *, norm: Norm, epsilon: float
) -> Tensor:
    """`shares * first + (1 - shares) * second`, scaled up and projected onto the ball.

    Args:
        first: `(B, C, H, W)`.
        second: likewise.
        shares: `(B,)` in [0, 1].
        norm: of the ball.
        epsilon: its radius.

    Returns:
        `(B, C, H, W)`: the combination at `GAIN` times the mean l2 norm of the two, projected.
    """
    weights = shares[:, None, None, None]
    combined = weights * first + (1 - weights) * second
    wanted = GAIN * (norm_of(first, "l2") + norm_of(second, "l2")) / 2
    # A member mixed with its own reverse may vanish, and stays 0.
    gains = wanted / norm_of(combined, "l2").clamp(min=1e-12)
    return project(combined * gains[:, None, None, None], norm, epsilon)


def shifted(perturbations: Tensor, offsets: Tensor) -> Tensor:
    """Shift each of `perturbations` `(B, C, H, W)` cyclically.

    Args:
        perturbations: on any device.
        offsets: `(B, 2)` int64 on the CPU: rows down, columns to the right.

    Returns:
        `(B, C, H, W)`; what leaves at one side comes in at the other.
    """
    # One by one: most stay where they are, and a gather of all takes five times as long on a CPU.
    result = perturbations.clone()
    for number in offsets.any(dim=1).nonzero().flatten().tolist():
        result[number] = perturbations[number].roll(offsets[number].tolist(), dims=(1, 2))
    return result
