"""Filters in float64, picture by picture; borders go on with the nearest pixel."""

import io

import numpy as np
from PIL import Image


def bilateral(picture: np.ndarray, radius: int, spatial: float, colour: float) -> np.ndarray:
    """Tomasi & Manduchi 1998, equations 5 and 6, by a loop over pixels; `picture` `(C, H, W)`."""
    _, height, width = picture.shape
    result = np.zeros_like(picture, dtype=np.float64)
    for row in range(height):
        for column in range(width):
            total, weights = 0.0, 0.0
            for down in range(-radius, radius + 1):
                for right in range(-radius, radius + 1):
                    at = min(max(row + down, 0), height - 1), min(max(column + right, 0), width - 1)
                    other = picture[:, at[0], at[1]].astype(np.float64)
                    apart = np.linalg.norm(other - picture[:, row, column])
                    weight = np.exp(-0.5 * (down**2 + right**2) / spatial**2)
                    weight *= np.exp(-0.5 * (apart / colour) ** 2)
                    total, weights = total + weight * other, weights + weight
            result[:, row, column] = total / weights
    return result


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """Pillow's own encoder and decoder on one picture `(C, H, W)` in [0, 1]."""
    pixels = np.rint(picture * 255).astype(np.uint8)
    image = Image.fromarray(pixels[0]) if len(pixels) == 1 else Image.merge(
        "RGB", [Image.fromarray(channel) for channel in pixels]
    )  # fmt: skip
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=quality)
    decoded = np.asarray(Image.open(io.BytesIO(stream.getvalue())), dtype=np.float64) / 255
    return decoded[None] if decoded.ndim == 2 else np.moveaxis(decoded, 2, 0)
