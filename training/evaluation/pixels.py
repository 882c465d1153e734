"""Pictures and patterns as PNG inside a page."""

import base64
import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LARGEST_SIDE = 448
"""Longer pictures are shown smaller: a report of thirty at full size would take 100 MB."""
SHOWN_WHOLE = 0.99


def eye_factor(patterns: Tensor, *, share: float = 1.0) -> float:
    """The factor by which patterns `(..., C, H, W)` fill the range around middle gray.

    Args:
        patterns: differences of pixels in [0, 1], of either sign.
        share: of the values that must fit; the others are clipped.

    Returns:
        The largest number of two digits with `share` of `0.5 + factor * patterns` in [0, 1]; 1 if
        the patterns are empty of anything.
    """
    sizes = patterns.abs().flatten().double().numpy()
    reach = float(np.quantile(sizes, share)) or float(sizes.max())
    if reach == 0.0:
        return 1.0
    factor = 0.5 / reach
    unit = 10.0 ** (math.floor(math.log10(factor)) - 1)
    # The tiny share added keeps 0.5 / 0.5 at 1.0 instead of 0.99.
    return float(f"{math.floor(factor / unit * (1 + 1e-9)) * unit:.2g}")


def for_the_eye(pattern: Tensor, factor: float) -> Tensor:
    """A pattern `(C, H, W)` as a picture in [0, 1]: middle gray is nothing, more is brighter."""
    return (0.5 + factor * pattern).clamp(0.0, 1.0)


def png_uri(image: Tensor) -> str:
    """A picture `(C, H, W)` in [0, 1], 1 or 3 channels, as a `data:` address."""
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if max(picture.size) > LARGEST_SIDE:
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
