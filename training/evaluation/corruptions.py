"""Harmless changes of clean pictures that a detector may take for an attack.

Source: the kinds are those of Hendrycks & Dietterich 2019, at strengths that a working camera or an
image pipeline brings about.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from training.datasets import ArrayPictures, Pictures, batch_for, batches
from training.evaluation.filters import gaussian_blur, jpeg
from training.evaluation.outcomes import BATCH
from training.randomness import generator_for

Corruption = Callable[[Tensor, torch.Generator], Tensor]
"""Maps `(B, C, H, W)` float32 in [0, 1], with a CPU generator, to the same shape and range."""


def gaussian_noise(images: Tensor, generator: torch.Generator, *, deviation: float) -> Tensor:
    """Independent noise of standard deviation `deviation` on [0, 1], kept in [0, 1]."""
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return (images + deviation * noise).clamp(0, 1)


def contrast(images: Tensor, *, factor: float) -> Tensor:
    """Distances from each channel's mean over the picture times `factor`, kept in [0, 1]."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return (mean + factor * (images - mean)).clamp(0, 1)


def brightness(images: Tensor, *, offset: float) -> Tensor:
    """`offset` added to every value, kept in [0, 1]."""
    return (images + offset).clamp(0, 1)


CORRUPTIONS: Final[dict[str, Corruption]] = {
    "none": lambda images, _: images,
    "JPEG 75": lambda images, _: jpeg(images, quality=75),
    "JPEG 50": lambda images, _: jpeg(images, quality=50),
    "Gaussian blur, sigma 1": lambda images, _: gaussian_blur(images, sigma=1.0),
    "Gaussian noise, 0.04": lambda images, draw: gaussian_noise(images, draw, deviation=0.04),
    "contrast x 0.75": lambda images, _: contrast(images, factor=0.75),
    "contrast x 1.25": lambda images, _: contrast(images, factor=1.25),
    "brightness + 0.1": lambda images, _: brightness(images, offset=0.1),
    "brightness - 0.1": lambda images, _: brightness(images, offset=-0.1),
}


def corrupted(pictures: Pictures, name: str, *, seed: int) -> ArrayPictures:
    """All of `pictures` under one of `CORRUPTIONS`, as 8-bit values on the device they are on."""
    corrupt, generator = CORRUPTIONS[name], generator_for(seed, f"corruption {name}")
    parts = [
        (corrupt(images, generator) * 255).round().to(torch.uint8)
        for images, _ in batches(pictures, batch_for(pictures.shape, BATCH))
    ]
    return ArrayPictures(torch.cat(parts), pictures.labels, pictures.class_names)
