"""Attack objectives, picture by picture."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

Array = NDArray[np.float64]


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """`-log softmax(logits)[label]` of each row, `(B,)`."""
    rows = np.asarray(logits, dtype=np.float64)
    pairs = zip(rows, np.asarray(labels), strict=True)
    return np.array([logsumexp(row) - row[label] for row, label in pairs])


def cosine_excess(perturbation: ArrayLike, others: ArrayLike, allowed: float) -> float:
    """Sum of what |cosine| to each of `others` `(M, D)` has beyond `allowed`."""
    flat = np.asarray(perturbation, dtype=np.float64).ravel()
    total = 0.0
    for other in np.asarray(others, dtype=np.float64):
        cosine = flat @ other / (np.linalg.norm(flat) * np.linalg.norm(other))
        total += max(0.0, abs(cosine) - allowed)
    return total
