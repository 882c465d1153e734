"""(p, q)-singular vectors of matrices that are written down."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def power_method(
    matrix: ArrayLike, start: ArrayLike, *, p: float, q: float, iterations: int
) -> tuple[Array, list[float]]:
    """The generalised power method: the last vector, and `|A v|_q` of every vector on the way."""
    a, v = np.asarray(matrix, dtype=np.float64), np.asarray(start, dtype=np.float64).ravel()
    v = v / np.linalg.norm(v, ord=p)
    values = [_norm(a @ v, q)]
    for _ in range(iterations):
        moved = a @ v
        moved = moved / np.abs(moved).max()
        pulled = a.T @ (np.sign(moved) * np.abs(moved) ** (q - 1))
        dual = 1.0 if np.isinf(p) else p / (p - 1)
        v = np.sign(pulled) * np.abs(pulled) ** (dual - 1)
        v = v / np.linalg.norm(v, ord=p)
        values.append(_norm(a @ v, q))
    return v, values


def tanh_jacobian(weight: ArrayLike, bias: ArrayLike, inputs: ArrayLike) -> Array:
    """Jacobians of `tanh(W x + b)` at every row of `inputs`, stacked: `(N * rows of W, values)`."""
    w, x = np.asarray(weight, dtype=np.float64), np.asarray(inputs, dtype=np.float64)
    slopes = 1 - np.tanh(x @ w.T + np.asarray(bias, dtype=np.float64)) ** 2
    return (slopes[:, :, None] * w[None]).reshape(-1, w.shape[1])


def _norm(values: Array, q: float) -> float:
    largest = np.abs(values).max()
    return float(largest * ((np.abs(values) / largest) ** q).sum() ** (1 / q))
