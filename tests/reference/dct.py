"""The detector's features by SciPy's own transform."""

import itertools

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

FLOOR = 1e-3


def coefficients(difference: ArrayLike) -> Array:
    """DCT-II `(B, H, W)` of the luminance of `(B, C, H, W)`."""
    pixels = np.asarray(difference, dtype=np.float64)
    weights = np.array([1.0]) if pixels.shape[1] == 1 else np.array([0.299, 0.587, 0.114])
    gray = np.tensordot(weights, pixels, axes=(0, 1))
    transformed: Array = scipy.fft.dctn(gray, type=2, axes=(1, 2), norm="ortho")
    return transformed


def features(difference: ArrayLike, *, pool: int = 1) -> Array:
    """Log magnitudes, averaged over whole cells of `pool` x `pool`, flat: `(B, features)`."""
    plane = np.log(np.abs(coefficients(difference)) + FLOOR)
    rows, columns = plane.shape[1] // pool, plane.shape[2] // pool
    cells = [
        plane[:, r * pool : (r + 1) * pool, c * pool : (c + 1) * pool].mean(axis=(1, 2))
        for r in range(rows)
        for c in range(columns)
    ]
    return np.stack(cells, axis=1)


def band_features(difference: ArrayLike, edges: tuple[list[int], list[int]]) -> Array:
    """Log magnitudes averaged over the products of the bands between `edges`: `(B, features)`."""
    plane = np.log(np.abs(coefficients(difference)) + FLOOR)
    rows, columns = edges
    tall = np.add.reduceat(plane, rows[:-1], axis=1) / np.diff(rows)[:, None]
    cells = np.add.reduceat(tall, columns[:-1], axis=2) / np.diff(columns)
    return np.asarray(cells.reshape(len(plane), -1))


def energy_features(difference: ArrayLike, edges: tuple[list[int], list[int]]) -> Array:
    """Half the log of the mean energy in the products of the bands between `edges`: `(B, F)`."""
    pixels = np.asarray(difference, dtype=np.float64)
    spectrum = scipy.fft.dctn(pixels, type=2, axes=(2, 3), norm="ortho")
    rows, columns = edges
    cells = [
        (spectrum[:, :, top:bottom, left:right] ** 2).mean(axis=(1, 2, 3))
        for top, bottom in itertools.pairwise(rows)
        for left, right in itertools.pairwise(columns)
    ]
    return np.asarray(0.5 * np.log(np.stack(cells, axis=1) + FLOOR**2))
