"""When requests arrive, and what they would meet in a queue before one session and nothing else."""

from typing import Final

import numpy as np
import numpy.typing as npt

CAMERAS: Final = 16
MAX_BATCH: Final = 32
MAX_DELAY: Final = 0.002
"""The server's defaults."""

Floats = npt.NDArray[np.float64]


def arrivals(kind: str, rate: float, seconds: float) -> Floats:
    """When requests are due, ascending, in seconds from the beginning.

    Args:
        kind: "Poisson", or "cameras": `CAMERAS` of them, each at its own regular times.
        rate: of all together, a second.
        seconds: how long.
    """
    rng = np.random.default_rng(0)
    if kind == "Poisson":
        return np.cumsum(rng.exponential(1 / rate, max(1, round(rate * seconds))))
    period = CAMERAS / rate
    first = rng.uniform(0, period, CAMERAS)
    frames = np.arange(max(1, round(seconds / period))) * period
    return np.sort((first[:, None] + frames).ravel())


def queue_alone(
    due: Floats, fixed: float, each: float, *, max_batch: int = MAX_BATCH, delay: float = MAX_DELAY
) -> Floats:
    """Seconds that each arrival spends in a queue before one session, in order of arrival.

    Args:
        due: ascending.
        fixed: seconds that every batch takes.
        each: and for each of its pictures.
        max_batch: most pictures in one.
        delay: that the first of a batch waits for others.
    """
    spent = np.empty(len(due))
    free, at = 0.0, 0
    while at < len(due):
        begin = max(free, due[at] + delay)
        end = int(np.searchsorted(due, begin, side="right"))
        end = min(max(end, at + 1), at + max_batch)
        free = begin + fixed + each * (end - at)
        spent[at:end] = free - due[at:end]
        at = end
    return spent
