"""Bringing pictures to the target's size: resize on demand, then cut at one of five places.

The five places are the four corners and the centre, as in the PRN paper (Akhtar et al. 2018,
section 5). Departure: a resized picture is rounded to the 8-bit grid again, because a deployed
guard sees 8-bit pixels only, and the detector reads the high frequencies that rounding leaves.
"""

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from prn_guard.errors import DataError, InvalidArgumentError

PLACES: Final = 5
CENTER: Final = 4
LARGEST_RATIO: Final = 1.5
LARGEST_PIXEL_COUNT: Final = 1 << 26

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Fitting:
    """What pictures are brought to.

    Args:
        size: `(C, H, W)` that the target takes.
        resize: length that the shorter side is scaled to before cutting; None leaves the scale.

    Raises:
        InvalidArgumentError: the size or the length makes no sense for pictures.
    """

    size: Shape
    resize: int | None = None

    def __post_init__(self) -> None:
        if len(self.size) != 3 or self.size[0] not in {1, 3} or min(self.size) < 1:
            raise InvalidArgumentError(
                f"The size of the pictures is {self.size}; expected (channels, height, width) with "
                "1 or 3 channels, as (3, 224, 224)."
            )
        if self.resize is not None and self.resize < 1:
            raise InvalidArgumentError(
                f"resize is {self.resize}; expected the new length of the shorter side in pixels, "
                "as 256."
            )


def check_fit(shape: Shape, fitting: Fitting, name: str) -> None:
    """Refuse a picture of `shape` `(c, h, w)` that cannot be brought to `fitting.size`.

    Raises:
        DataError: wrong channels, too small, or so large that cutting would lose most of it.
    """
    channels, height, width = fitting.size
    if shape[0] not in {1, channels}:
        raise DataError(
            f"{name} has {shape[0]} channels; the target takes {channels}. Convert the pictures to "
            f"{'gray' if channels == 1 else 'RGB'} first, or name the target's true input shape."
        )
    h, w = _scaled(shape, fitting.resize)
    if h * w > LARGEST_PIXEL_COUNT:
        raise DataError(
            f"{name} would be resized to {h}x{w}, more than {LARGEST_PIXEL_COUNT} pixels. Remove "
            "it or cut it to a common aspect ratio."
        )
    if h < height or w < width:
        after = "" if fitting.resize is None else f" after resize to {fitting.resize}"
        raise DataError(
            f"{name} is {h}x{w} (height x width){after}; the target takes {height}x{width}. Give "
            f"larger pictures, or --resize {max(height, width)} to scale the shorter side up."
        )
    if fitting.resize is None and min(h, w) > LARGEST_RATIO * min(height, width):
        raise DataError(
            f"{name} is {h}x{w} (height x width), more than {LARGEST_RATIO} times the {height}x"
            f"{width} that the target takes: cutting would lose most of it. Scale the shorter side "
            f"down first, as with --resize {round(min(height, width) * 8 / 7)}."
        )


def fit(pixels: Tensor, fitting: Fitting, place: int = CENTER) -> Tensor:
    """Resize, cut and replicate one picture that passed `check_fit`.

    Args:
        pixels: `(c, h, w)` uint8, 0..255.
        fitting: what to bring it to.
        place: 0 top left, 1 top right, 2 bottom left, 3 bottom right, 4 centre.

    Returns:
        `(C, H, W)` uint8.
    """
    channels, height, width = fitting.size
    h, w = _scaled((pixels.shape[0], pixels.shape[1], pixels.shape[2]), fitting.resize)
    if (h, w) != tuple(pixels.shape[1:]):
        scaled = F.interpolate(
            pixels[None].to(torch.float32), size=(h, w), mode="bilinear", antialias=True
        )
        pixels = scaled[0].round().clamp(0, 255).to(torch.uint8)
    top, left = _corner(h - height, w - width, place)
    return pixels[:, top : top + height, left : left + width].expand(channels, height, width)


def draw_places(count: int, crops: torch.Generator | None) -> list[int]:
    """Where to cut `count` pictures: drawn evenly from the five places, or all at the centre."""
    if crops is None:
        return [CENTER] * count
    places: list[int] = torch.randint(PLACES, (count,), generator=crops).tolist()
    return places


def to_images(pixels: Tensor) -> Tensor:
    """Turn uint8 `pixels` 0..255 of any shape into float32 in [0, 1]."""
    return pixels.to(torch.float32) / 255


def _scaled(shape: Shape, resize: int | None) -> tuple[int, int]:
    _, h, w = shape
    if resize is None:
        return h, w
    return (resize, resize * w // h) if h <= w else (resize * h // w, resize)


def _corner(spare_rows: int, spare_columns: int, place: int) -> tuple[int, int]:
    if place == CENTER:
        return spare_rows // 2, spare_columns // 2
    return spare_rows * (place // 2), spare_columns * (place % 2)
