"""The mixture of Shiryaev-Roberts statistics by its definition: one product from every start."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def evidence(flags: ArrayLike, clean_share: float, shares: ArrayLike) -> NDArray[np.float64]:
    """M after each of `flags` `(T,)`, for the alternatives `shares` `(K,)`.

    The mean over alternatives of the sum, over every time s up to t, of the likelihood ratio of
    the flags from s to t.
    """
    seen = np.asarray(flags, dtype=bool)
    alternatives = np.asarray(shares, dtype=np.float64)[:, None]
    steps = np.where(seen, alternatives / clean_share, (1 - alternatives) / (1 - clean_share))
    whole = []
    for end in range(1, len(seen) + 1):
        from_each_start = [steps[:, start:end].prod(axis=1) for start in range(end)]
        whole.append(np.sum(from_each_start, axis=0).mean())
    return np.array(whole)
