"""Shifts inside a border of zeros, and flips, pixel by pixel."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def shifted(image: Array, down: int, right: int) -> Array:
    """Pixel `(r, c)` of the result is pixel `(r + down, c + right)` of `image`, 0 outside it."""
    _, height, width = image.shape
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                result[:, row, column] = image[:, row + down, column + right]
    return result


def flipped(image: Array) -> Array:
    """Mirrored, left for right."""
    result = np.zeros_like(image)
    for column in range(image.shape[2]):
        result[:, :, column] = image[:, :, image.shape[2] - 1 - column]
    return result


def everywhere(image: Array, rows: int, columns: int) -> dict[tuple[int, int, bool], Array]:
    """All that can become of `image` by shifts of at most so many pixels, and flips."""
    found = {}
    for down in range(-rows, rows + 1):
        for right in range(-columns, columns + 1):
            moved = shifted(image, down, right)
            found[down, right, False] = moved
            found[down, right, True] = flipped(moved)
    return found
