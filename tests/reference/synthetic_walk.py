"""Algorithm 1 of the PRN paper, one walk after the other, step by step."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Draw = Callable[[int], tuple[ArrayLike, ArrayLike]]
"""Given how many walks go on: a length in [0, 1) and a member's index for each of them."""


def size(vector: Array, norm: str) -> float:
    """Norm of a flat vector."""
    return float(np.abs(vector).max() if norm == "linf" else np.sqrt((vector**2).sum()))


def walks(bank: ArrayLike, count: int, *, norm: str, epsilon: float, draw: Draw) -> Array:
    """`(count, D)` walks along the flat members `bank` `(P, D)`, scaled back onto the bound."""
    members = [row / np.sqrt((row**2).sum()) for row in np.asarray(bank, dtype=np.float64)]
    places = [np.zeros_like(members[0]) for _ in range(count)]
    going = list(range(count))
    while going:
        lengths, chosen = (np.asarray(drawn) for drawn in draw(len(going)))
        for walk, length, member in zip(going, lengths.ravel(), chosen.ravel(), strict=True):
            places[walk] = places[walk] + float(length) * epsilon * members[int(member)]
        going = [walk for walk in going if size(places[walk], norm) < epsilon]
    return np.stack([place * (epsilon / size(place, norm)) for place in places])


def is_accepted(walk: Array, bank: ArrayLike, *, norm: str) -> bool:
    """Whether Algorithm 1 keeps `walk` `(D,)`: in l2 always, in linf where it is dense enough."""
    mean = np.mean([np.sqrt((row**2).sum()) for row in np.asarray(bank, dtype=np.float64)])
    return norm == "l2" or size(walk, "l2") >= mean
