"""Perlin's gradient noise and sparse Gabor convolution, one point at a time in float64."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def gradient_noise(rows: Array, columns: Array, gradients: Array) -> Array:
    """`(H, W)` at the points of a grid; gradients `(Y, X, 2)` along rows and along columns."""
    noise = np.zeros((len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            for y in (math.floor(row), math.floor(row) + 1):
                for x in (math.floor(column), math.floor(column) + 1):
                    offset = np.array([row - y, column - x])
                    weight = _falling(abs(row - y)) * _falling(abs(column - x))
                    noise[i, j] += weight * (gradients[y, x] @ offset)
    return noise


def _falling(distance: float) -> float:
    """Weight of a lattice point, 1 where one stands on it and 0 one lattice unit away."""
    return 1 - (6 * distance**5 - 15 * distance**4 + 10 * distance**3)


def gabor_sum(
    impulses: Array,
    *,
    radius: int,
    sigma: float,
    wavelength: float,
    orientation: float,
    directions: int,
) -> Array:
    """`(H, W)` of impulses `(H + 2 R, W + 2 R)`, each with its own kernels, cut off at `radius`."""
    height, width = (side - 2 * radius for side in impulses.shape)
    noise = np.zeros((height, width))
    for row, column in np.argwhere(impulses != 0):
        for i in range(height):
            for j in range(width):
                down, right = i + radius - row, j + radius - column
                if max(abs(down), abs(right)) > radius:
                    continue
                envelope = math.exp(-(down**2 + right**2) / (2 * sigma**2))
                for number in range(directions):
                    angle = orientation + number * math.pi / directions
                    phase = (right * math.cos(angle) + down * math.sin(angle)) / wavelength
                    noise[i, j] += impulses[row, column] * envelope * math.cos(2 * math.pi * phase)
    return noise
