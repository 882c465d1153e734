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


def energy_features(difference: ArrayLike, side: int) -> Array:
    """Half the log of the energy at each frequency of blocks, averaged over them: `(B, F)`."""
    pixels = np.asarray(difference, dtype=np.float64)
    (high, tops), (wide, lefts) = (_blocks(size, side) for size in pixels.shape[2:])
    logs = []
    for top, left in itertools.product(tops, lefts):
        block = pixels[:, :, top : top + high, left : left + wide]
        spectrum = scipy.fft.dctn(block, type=2, axes=(2, 3), norm="ortho")
        logs.append(0.5 * np.log((spectrum**2).mean(axis=1) + FLOOR**2))
    return np.mean(logs, axis=0).reshape(len(pixels), -1)


def _blocks(size: int, side: int) -> tuple[int, list[int]]:
    """Their side, and where they begin; the last one ends where the picture does."""
    side = min(side, size)
    whole = [side * number for number in range(size // side)]
    return side, whole if size % side == 0 else [*whole, size - side]
