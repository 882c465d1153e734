"""Variations of perturbations, one at a time, in float64."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def shifted(perturbation: ArrayLike, down: int, right: int) -> Array:
    """`(C, H, W)` shifted cyclically."""
    return np.roll(np.asarray(perturbation, dtype=np.float64), (down, right), axis=(1, 2))


def mixture(first: ArrayLike, second: ArrayLike, share: float, norm: str, epsilon: float) -> Array:
    """`share * first + (1 - share) * second` at twice their mean l2 norm, then in the ball."""
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    combined = share * one + (1 - share) * other
    wanted = np.linalg.norm(one) + np.linalg.norm(other)
    combined *= wanted / np.linalg.norm(combined)
    if norm == "linf":
        return np.clip(combined, -epsilon, epsilon)
    return combined * min(1.0, epsilon / np.linalg.norm(combined))


def varied(
    bank: ArrayLike,
    chosen: int,
    other: int,
    share: float,
    *,
    norm: str,
    epsilon: float,
    is_reversed: bool,
    offsets: tuple[int, int],
    factor: float,
) -> Array:
    """A member of `bank` `(P, C, H, W)`: mixed (below a share of 1), reversed, shifted, scaled."""
    members = np.asarray(bank, dtype=np.float64)
    found = members[chosen]
    if share < 1:
        found = mixture(found, members[other], share, norm, epsilon)
    return shifted(-found if is_reversed else found, *offsets) * factor
