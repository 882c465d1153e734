"""Jacobians by central differences, their stack, and equations 9 and 10 as they are printed."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
STEP = 1e-6


def difference_jacobians(forward: Callable[[Array], Array], points: Array) -> Array:
    """`(N, K, D)` of `forward`, which maps `(N, D)` to `(N, K)`, at `points` `(N, D)`."""
    columns = []
    for axis in range(points.shape[1]):
        way = np.zeros(points.shape[1])
        way[axis] = STEP
        columns.append((forward(points + way) - forward(points - way)) / (2 * STEP))
    return np.stack(columns, axis=2)


def norms(jacobians: Array) -> Array:
    """Frobenius norms `(N,)`."""
    return np.array([np.linalg.norm(one, "fro") for one in jacobians])


def stacked_norm(jacobians: Array) -> float:
    """Frobenius norm of the matrix of equation 5, `(N*K, D)`."""
    return float(np.linalg.norm(np.concatenate(list(jacobians), axis=0), "fro"))


def right_hand_side_of_equation_9(jacobians: Array) -> float:
    total = 0.0
    for one in norms(jacobians):
        for other in norms(jacobians):
            total += one * other
    return float(np.sqrt(total))


def similarities(jacobians: Array) -> Array:
    """Equation 10 for the pairs i < j, `(N*(N-1)/2,)`."""
    found = []
    for first, one in enumerate(jacobians):
        for other in jacobians[first + 1 :]:
            inner = np.trace(one.T @ other)
            found.append(inner / (np.linalg.norm(one, "fro") * np.linalg.norm(other, "fro")))
    return np.array(found)
