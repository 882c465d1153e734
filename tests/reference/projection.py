"""Nearest points of the linf and l2 balls, and the inequality that only they fulfil."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def nearest(point: ArrayLike, norm: str, epsilon: float) -> Array:
    """The point of the ball nearest to `point` (any shape), in closed form."""
    values = np.asarray(point, dtype=np.float64)
    if norm == "linf":
        return np.minimum(np.maximum(values, -epsilon), epsilon)
    length = np.sqrt(np.sum(values**2))
    return values if length <= epsilon else values / length * epsilon


def obtuse_gap(point: ArrayLike, candidate: ArrayLike, norm: str, epsilon: float) -> float:
    """`max <point - candidate, y - candidate>` over all y of the ball.

    A convex set's nearest point is the only one of its points where this is not above 0. The
    maximum over y is epsilon times the dual norm, so no search is needed.
    """
    at = np.asarray(candidate, dtype=np.float64)
    outward = np.asarray(point, dtype=np.float64) - at
    dual = np.abs(outward).sum() if norm == "linf" else np.sqrt((outward**2).sum())
    return float(epsilon * dual - np.sum(outward * at))
