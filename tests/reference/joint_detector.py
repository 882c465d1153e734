"""The detector that is trained together with a rectifier, step by step in float64."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def scores(
    features: ArrayLike, means: ArrayLike, squares: ArrayLike, free: ArrayLike, bias: float
) -> Array:
    """Scores `(B,)` of features `(B, F)`; weights are `log(1 + exp(free))`."""
    known = [np.asarray(one, dtype=np.float64) for one in (features, means, squares, free)]
    variance = np.maximum(known[2] - known[1] ** 2, 1e-6)
    weights = np.log1p(np.exp(known[3]))
    return np.asarray(((known[0] - known[1]) / np.sqrt(variance)) @ weights + bias)


def running_means(batches: list[Array], momentum: float = 0.05) -> tuple[Array, Array]:
    """Means and mean squares of features, `(F,)` each, after mini-batches `(B, F)`."""
    means, squares = batches[0].mean(axis=0), (batches[0] ** 2).mean(axis=0)
    for batch in batches[1:]:
        means = means + momentum * (batch.mean(axis=0) - means)
        squares = squares + momentum * ((batch**2).mean(axis=0) - squares)
    return means, squares


def detection_loss(scores: ArrayLike, is_perturbed: ArrayLike) -> float:
    """`log(1 + exp(1 - score))` of perturbed pictures, twice `log(1 + exp(1 + score))` of clean."""
    total = 0.0
    pairs = list(zip(np.asarray(scores, dtype=np.float64), np.asarray(is_perturbed), strict=True))
    for score, perturbed in pairs:
        total += np.logaddexp(0, 1 - score) if perturbed else 2 * np.logaddexp(0, 1 + score)
    return total / len(pairs)
