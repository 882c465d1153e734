"""What training pictures go through before they are seen: nothing, flips, or crops and flips."""

import torch
from torch import Tensor
from torch.nn import functional as F

from training.hardening.recipe import Augmentation

PADDING = 8
"""A picture is padded by this part of its side: 4 of 32 pixels, the custom on CIFAR-10."""


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Flip half of the pictures; with `crop-flip`, first shift each inside a border of zeros.

    Args:
        images: `(B, C, H, W)` in [0, 1].
        augmentation: which of it.
        generator: CPU generator of flips and places.

    Returns:
        `(B, C, H, W)`, on the device of `images`.
    """
    if augmentation == "none":
        return images
    if augmentation == "crop-flip":
        images = _shifted(images, generator)
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flipped.to(images.device)[:, None, None, None], images.flip(3), images)


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    count, channels, height, width = images.shape
    border = (height // PADDING, width // PADDING)
    padded = F.pad(images, (border[1], border[1], border[0], border[0]))
    top, left = (
        torch.randint(2 * most + 1, (count, 1), generator=generator).to(images.device)
        for most in border
    )
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    number = torch.arange(count, device=images.device)
    return padded[
        number[:, None, None, None],
        torch.arange(channels, device=images.device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
