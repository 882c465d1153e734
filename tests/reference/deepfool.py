"""DeepFool, Algorithm 2 of its paper, for networks whose Jacobian is written down by hand."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NUDGE = 1e-4
"""The published implementation adds this to the gap, so that the boundary itself is left behind."""


@dataclass(frozen=True)
class Network:
    """`logits = outer @ tanh(inner @ x + inner_bias) + outer_bias`; affine without `inner`."""

    outer: Array
    outer_bias: Array
    inner: Array | None = None
    inner_bias: Array | None = None

    def logits(self, point: Array) -> Array:
        """`(K,)` of one flat picture `(D,)`."""
        hidden = point if self.inner is None else np.tanh(self.inner @ point + self.inner_bias)
        return self.outer @ hidden + self.outer_bias

    def jacobian(self, point: Array) -> Array:
        """Gradients of the logits, `(K, D)`."""
        if self.inner is None:
            return self.outer
        hidden = np.tanh(self.inner @ point + self.inner_bias)
        return self.outer @ ((1 - hidden**2)[:, None] * self.inner)


def step(
    network: Network,
    picture: Array,
    *,
    classes: int,
    overshoot: float,
    iterations: int,
    norm: str = "l2",
) -> Array:
    """The step `(D,)` that DeepFool has found after at most `iterations`."""
    order = np.argsort(-network.logits(picture))[:classes]
    home = order[0]
    total = np.zeros_like(picture)
    for _ in range(iterations):
        place = picture + (1 + overshoot) * total
        logits, jacobian = network.logits(place), network.jacobian(place)
        if np.argmax(logits) != home:
            break
        ways = []
        for other in order[1:]:
            slope, gap = jacobian[other] - jacobian[home], logits[other] - logits[home]
            # Hoelder: slope . r = gap is reached by the shortest r in one norm as the other norm
            # of the slope tells, and along its sign in linf.
            dual, way = np.abs(slope).sum(), np.sign(slope)
            if norm == "l2":
                dual = np.linalg.norm(slope)
                way = slope / dual
            ways.append((abs(gap) / dual, (abs(gap) + NUDGE) / dual * way))
        total = total + min(ways, key=lambda way: way[0])[1]
    return (1 + overshoot) * total
