"""What a rectifier is trained on: clean pictures, and what it is given to see in their place.

Source: PRN paper, sections 4.1 and 4.2: half of the pictures under a random member of the real and
synthetic perturbations. Departures, both of the recipe: mirrored pictures, varied perturbations.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from training.attacks.norms import Norm, perturb
from training.datasets import Pictures
from training.guard.augmentation import vary
from training.guard.recipe import PERTURBED_SHARE, Recipe
from training.processes import Processes


@final
@dataclass(frozen=True, kw_only=True)
class RectifierBatch:
    """The parts of a mini-batch, all on the device of the pictures."""

    clean: Tensor
    """Pictures `(B, C, H, W)` in [0, 1]; the target's answers to them are what is learned."""
    seen: Tensor
    """What the rectifier is given, `(B, C, H, W)` in [0, 1]: clean, or under a perturbation."""
    is_perturbed: Tensor
    """Which of `seen` are perturbed, `(B,)` bool."""
    is_aimed: Tensor
    """Which of those are under perturbations that are aimed at the guard, `(B,)` bool."""

    def part(self, together: Processes) -> "RectifierBatch":
        """The pictures of this process."""
        return RectifierBatch(
            clean=together.own(self.clean),
            seen=together.own(self.seen),
            is_perturbed=together.own(self.is_perturbed),
            is_aimed=together.own(self.is_aimed),
        )


def draw_batch(
    pictures: Pictures,
    positions: Tensor,
    bank: Tensor,
    *,
    recipe: Recipe,
    norm: Norm,
    epsilon: float,
    generator: torch.Generator,
) -> RectifierBatch:
    """Read pictures, cut at one of five places, and perturb some of them.

    Args:
        pictures: to train on.
        positions: `(B,)` int64.
        bank: perturbations `(P, C, H, W)`, on the device of the pictures.
        recipe: which share is perturbed, whether pictures are mirrored and perturbations varied.
        norm: of the ball of perturbations.
        epsilon: its radius on [0, 1] pixels.
        generator: CPU generator of all that is drawn.
    """
    clean = pictures.batch(positions, crops=generator)
    if recipe.mirrored:
        flipped = torch.rand(len(clean), generator=generator) < 0.5
        clean = torch.where(flipped.to(clean.device)[:, None, None, None], clean.flip(3), clean)
    is_perturbed, chosen = _drawn(len(clean), len(bank), recipe.perturbed_share, generator)
    chosen = chosen[is_perturbed]
    if recipe.augmented:
        added = vary(bank, chosen, generator, norm=norm, epsilon=epsilon)
    else:
        added = bank[chosen]
    seen = clean.clone()
    seen[is_perturbed] = perturb(clean[is_perturbed], added)
    is_perturbed = is_perturbed.to(clean.device)
    return RectifierBatch(
        clean=clean,
        seen=seen,
        is_perturbed=is_perturbed,
        is_aimed=torch.zeros_like(is_perturbed),
    )


def aimed_at(batch: RectifierBatch, added: Tensor, share: float) -> RectifierBatch:
    """The same mini-batch with its first pictures under other perturbations.

    Args:
        batch: of B pictures.
        added: perturbations `(A, C, H, W)` that its first pictures take in turn; they may require a
            gradient.
        share: of the mini-batch that is put under them.
    """
    count = round(share * len(batch.clean))
    turns = torch.arange(count, device=added.device) % len(added)
    seen = torch.cat([perturb(batch.clean[:count], added[turns]), batch.seen[count:]])
    is_aimed = torch.arange(len(seen), device=seen.device) < count
    return RectifierBatch(
        clean=batch.clean,
        seen=seen,
        is_perturbed=batch.is_perturbed | is_aimed,
        is_aimed=is_aimed,
    )


def perturb_half(
    images: Tensor, perturbations: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Perturb each of `images` with probability one half by a random one of `perturbations`.

    Returns:
        The pictures, `(B, C, H, W)` in [0, 1], and which of them are perturbed, `(B,)` bool, on the
        CPU.
    """
    is_perturbed, chosen = _drawn(len(images), len(perturbations), PERTURBED_SHARE, generator)
    added = perturbations[chosen] * is_perturbed.to(perturbations.device)[:, None, None, None]
    return perturb(images, added.to(images.device)), is_perturbed


def _drawn(
    count: int, members: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Which pictures are perturbed `(count,)` bool, and by which members `(count,)` int64."""
    is_perturbed = torch.rand(count, generator=generator) < share
    return is_perturbed, torch.randint(members, (count,), generator=generator)
