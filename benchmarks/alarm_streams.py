"""Streams of flags, many at a time, and what the test of the attack alarm makes of them.

The recursion is that of `prn_guard.serve.alarm`, vectorised over streams, without its window and
its recovery.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

BETWEEN: Final = 1e7
"""N: where the alarm is raised."""
WARM_UP: Final = 5000

Array = NDArray[np.float64]


def after_gap(evidence: Array, gaps: NDArray[np.int64], unflagged: Array, flagged: Array) -> Array:
    """R_k after `gaps` pictures without a flag and then one with.

    Args:
        evidence: `(streams, K)`, before.
        gaps: `(streams,)`.
        unflagged: `(K,)`, the factor of a picture without a flag, below 1.
        flagged: `(K,)`, that of one with.
    """
    powers = np.exp(gaps[:, None] * np.log(unflagged))
    quiet = evidence * powers + unflagged * (1 - powers) / (1 - unflagged)
    return np.asarray((1 + quiet) * flagged)


def run_lengths(
    chances: Array, ratios: tuple[Array, Array], most: float, rng: np.random.Generator
) -> Array:
    """Clean pictures until a false alarm; infinite where there was none among `most`.

    The test is looked at where pictures are flagged. Between them M can rise by the mean of
    L_k(0) / (1 - L_k(0)) at most, some hundreds against a threshold of ten million.

    Args:
        chances: `(streams,)` of a flag.
        ratios: L_k(0) and L_k(1), `(K,)` each.
        most: pictures after which a stream ends.
        rng: of the flags.
    """
    lengths = np.full(len(chances), np.inf)
    live = np.arange(len(chances))
    evidence = np.zeros((len(chances), len(ratios[0])))
    time = np.zeros(len(chances))
    while len(live):
        gaps = rng.geometric(chances[live]) - 1
        evidence = after_gap(evidence, gaps, *ratios)
        time += gaps + 1
        over = time > most
        raised = (evidence.mean(axis=1) >= BETWEEN) & ~over
        lengths[live[raised]] = time[raised]
        stay = ~(raised | over)
        if not stay.all():
            live, evidence, time = live[stay], evidence[stay], time[stay]
    return lengths


def delays_of(
    before: float, after: float, ratios: tuple[Array, Array], count: int, rng: np.random.Generator
) -> Array:
    """Pictures from the begin of an attack until the alarm.

    Args:
        before: chance of a flag while `WARM_UP` clean pictures come.
        after: during the attack.
        ratios: L_k(0) and L_k(1), `(K,)` each.
        count: attacks.
        rng: of the flags.
    """
    factors = np.stack(ratios)
    evidence = np.zeros((count, len(ratios[0])))
    for _ in range(WARM_UP):
        evidence = (1 + evidence) * factors[(rng.random(count) < before).astype(int)]
        evidence[evidence.mean(axis=1) >= BETWEEN] = 0
    delays, live, time = np.zeros(count), np.arange(count), 0
    while len(live):
        time += 1
        evidence = (1 + evidence) * factors[(rng.random(len(live)) < after).astype(int)]
        raised = evidence.mean(axis=1) >= BETWEEN
        delays[live[raised]] = time
        live, evidence = live[~raised], evidence[~raised]
    return delays
