"""The score of a linear support vector machine on standardised features."""

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
