"""Scores of support vector machines on standardised features."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def score(
    features: ArrayLike, mean: ArrayLike, scale: ArrayLike, weight: ArrayLike, bias: float
) -> Array:
    """Scores `(B,)` of `features` `(B, F)`."""
    rows = np.asarray(features, dtype=np.float64)
    centre, spread = np.asarray(mean, np.float64), np.asarray(scale, np.float64)
    slopes = np.asarray(weight, np.float64)
    return np.array([sum(slopes * (row - centre) / spread) + bias for row in rows])


def rbf_score(
    features: ArrayLike,
    mean: ArrayLike,
    scale: ArrayLike,
    support: ArrayLike,
    gamma: float,
    coefficients: ArrayLike,
    bias: float,
) -> Array:
    """Scores `(B,)` of `features` `(B, F)` by radial basis functions at `support` `(S, F)`."""
    standard = (np.asarray(features, np.float64) - np.asarray(mean)) / np.asarray(scale)
    places, shares = np.asarray(support, np.float64), np.asarray(coefficients, np.float64)
    near = [
        [np.exp(-gamma * np.linalg.norm(row - place) ** 2) for place in places] for row in standard
    ]
    return np.asarray(np.array(near) @ shares + bias)
