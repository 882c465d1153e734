"""Update rules of the attacks' engine, without projection."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def step_sizes(steps: int, travel: float, decay: float, epsilon: float) -> list[float]:
    """`travel * epsilon * decay^k / sum_j decay^j`, the sum in closed form."""
    total = (1 - decay**steps) / (1 - decay) if decay != 1 else steps
    return [travel * epsilon * decay**k / total for k in range(steps)]


def run(
    rule: str, norm: str, start: ArrayLike, gradients: Sequence[ArrayLike], sizes: Sequence[float]
) -> Array:
    """Where `start` is after one step of `rule` per gradient."""
    point = np.asarray(start, dtype=np.float64).copy()
    first, second = np.zeros_like(point), np.zeros_like(point)
    for number, (given, size) in enumerate(zip(gradients, sizes, strict=True), start=1):
        gradient = np.asarray(given, dtype=np.float64)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        if rule == "sign-pgd" and norm == "linf":
            direction = np.sign(gradient)
        elif rule == "sign-pgd":
            direction = gradient / np.linalg.norm(gradient)
        elif rule == "sgd":
            direction = gradient / np.abs(gradient).max()
        elif rule == "momentum":
            direction = first / np.abs(first).max()
        else:
            unbiased = first / (1 - 0.9**number)
            direction = unbiased / np.sqrt(second / (1 - 0.999**number))
        point += size * direction
    return point
