"""Classical picture operations: what an undefended service could put in front of its classifier.

Sources: bit depth and the median as defenses, "feature squeezing" (Xu, Evans & Qi 2018); JPEG as
one (Dziugaite, Ghahramani & Roy 2016); the bilateral filter (Tomasi & Manduchi 1998).

Each takes and gives `(B, C, H, W)` float32 in [0, 1]. Filters go on beyond the border with the
value of its nearest pixel.
"""

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from prn_guard.errors import InvalidArgumentError

TRUNCATE = 4.0
"""The Gaussian's kernel ends this many standard deviations from its middle."""


def jpeg(images: Tensor, *, quality: int) -> Tensor:
    """Pictures of 1 or 3 channels after JPEG; colours are subsampled 4:2:0, the encoder's default.

    Raises:
        InvalidArgumentError: a quality outside 1..95, or another number of channels.
    """
    if not 1 <= quality <= 95:
        raise InvalidArgumentError(f"quality is {quality}; expected 1 to 95.")
    if images.shape[1] not in {1, 3}:
        raise InvalidArgumentError(
            f"The pictures have {images.shape[1]} channels; JPEG takes 1 or 3."
        )
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.stack([_through_jpeg(one, quality) for one in pixels])
    return (torch.from_numpy(decoded).permute(0, 3, 1, 2).float() / 255).to(images.device)


def reduce_bit_depth(images: Tensor, *, bits: int) -> Tensor:
    """Values rounded to `2 ** bits` even steps from 0 to 1.

    Raises:
        InvalidArgumentError: `bits` outside 1..8.
    """
    if not 1 <= bits <= 8:
        raise InvalidArgumentError(f"bits is {bits}; expected 1 to 8.")
    steps = 2**bits - 1
    rounded: Tensor = (images * steps).round() / steps
    return rounded


def median_filter(images: Tensor) -> Tensor:
    """Each value's median over the 3 x 3 pixels around it, channel by channel.

    The three values of each column are put in order first; the median of nine is then that of the
    largest of the smallest, the middle of the middle and the smallest of the largest. Choosing
    among all nine took 22 times as long, 20 ms for a picture of 3x224x224 on one thread.
    """
    height, width = images.shape[2:]
    wide = _beyond_border(images, 1)
    upper, here, lower = (wide[:, :, row : row + height] for row in range(3))
    least = torch.minimum(torch.minimum(upper, here), lower)
    most = torch.maximum(torch.maximum(upper, here), lower)
    middle = _middle(upper, here, lower)

    def columns(of: Tensor) -> list[Tensor]:
        return [of[:, :, :, column : column + width] for column in range(3)]

    low, high = columns(least), columns(most)
    return _middle(
        torch.maximum(torch.maximum(low[0], low[1]), low[2]),
        _middle(*columns(middle)),
        torch.minimum(torch.minimum(high[0], high[1]), high[2]),
    )


def gaussian_blur(images: Tensor, *, sigma: float) -> Tensor:
    """Pictures blurred by a Gaussian of standard deviation `sigma` pixels, ended at 4 of them.

    Raises:
        InvalidArgumentError: `sigma` is not above 0.
    """
    if not sigma > 0:
        raise InvalidArgumentError(f"sigma is {sigma}; expected above 0 pixels.")
    radius = int(TRUNCATE * sigma + 0.5)
    weights = [math.exp(-0.5 * (at / sigma) ** 2) for at in range(-radius, radius + 1)]
    kernel = [weight / sum(weights) for weight in weights]
    height, width = images.shape[2:]
    wide = _beyond_border(images, radius)
    # Shifted sums: convolutions took twice as long at 224x224, five times as long at 32x32.
    rows = torch.zeros_like(wide[:, :, :height])
    for at, weight in enumerate(kernel):
        rows.add_(wide[:, :, at : at + height], alpha=weight)
    blurred = torch.zeros_like(images)
    for at, weight in enumerate(kernel):
        blurred.add_(rows[:, :, :, at : at + width], alpha=weight)
    # The weights may sum to an ulp more than 1.
    return blurred.clamp(0, 1)


def bilateral_filter(
    images: Tensor, *, radius: int = 2, spatial_sigma: float = 1.0, range_sigma: float = 0.1
) -> Tensor:
    """Mean over a square around each pixel, weighted by nearness in place and in colour.

    Args:
        images: `(B, C, H, W)` in [0, 1].
        radius: of the square, in pixels.
        spatial_sigma: standard deviation of the weights over distance, in pixels.
        range_sigma: of those over the Euclidean distance of colours, on [0, 1].

    Raises:
        InvalidArgumentError: a radius or deviation that is not above 0.
    """
    if radius < 1 or not spatial_sigma > 0 or not range_sigma > 0:
        raise InvalidArgumentError(
            f"radius is {radius}, spatial_sigma {spatial_sigma}, range_sigma {range_sigma}; "
            "expected each above 0."
        )
    height, width = images.shape[2:]
    wide = _beyond_border(images, radius)
    total = torch.zeros_like(images)
    weights = torch.zeros_like(images[:, :1])
    for row in range(2 * radius + 1):
        for column in range(2 * radius + 1):
            other = wide[:, :, row : row + height, column : column + width]
            place = (row - radius) ** 2 + (column - radius) ** 2
            near = math.exp(-place / (2 * spatial_sigma**2))
            colour = (other - images).square().sum(dim=1, keepdim=True)
            weight = near * torch.exp(-colour / (2 * range_sigma**2))
            total += weight * other
            weights += weight
    return (total / weights).clamp(0, 1)


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """One picture `(H, W, C)` uint8, encoded and decoded."""
    stream = io.BytesIO()
    gray = pixels.shape[2] == 1
    Image.fromarray(pixels[:, :, 0] if gray else pixels).save(stream, "JPEG", quality=quality)
    with Image.open(stream) as decoded:
        return np.asarray(decoded).reshape(pixels.shape)


def _middle(one: Tensor, two: Tensor, three: Tensor) -> Tensor:
    """The median of three, value by value."""
    least, most = torch.minimum(one, two), torch.maximum(one, two)
    return torch.maximum(least, torch.minimum(most, three))


def _beyond_border(images: Tensor, pixels: int) -> Tensor:
    return F.pad(images, (pixels, pixels, pixels, pixels), mode="replicate")
