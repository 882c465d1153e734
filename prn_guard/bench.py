"""Latency and throughput of two ways to run one batch, measured in pairs, in one process.

The two run in turn and change places every round: what drifts (clock rate, temperature, load of
other programs) and what the first of a pair leaves in the caches meets both alike.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from prn_guard.errors import InvalidArgumentError

Run = Callable[[int], object]
"""Runs one batch of so many pictures, and returns when it is done."""

LEAST_ROUNDS: Final = 20
WARM_UP_ROUNDS: Final = 3


@dataclass(frozen=True)
class Latency:
    """Seconds that one batch takes, over all rounds."""

    median: float
    p5: float
    p95: float
    p99: float

    def in_milliseconds(self) -> dict[str, float]:
        """The same figures for the result file."""
        return {
            "median_ms": 1e3 * self.median,
            "p5_ms": 1e3 * self.p5,
            "p95_ms": 1e3 * self.p95,
            "p99_ms": 1e3 * self.p99,
        }


@dataclass(frozen=True)
class Measured:
    """Both ways at one batch size; `ratio` is guarded over bare, pair by pair."""

    batch_size: int
    rounds: int
    guarded: Latency
    bare: Latency
    ratio: float
    ratio_p5: float
    ratio_p95: float

    def throughput(self, latency: Latency) -> float:
        """Pictures a second at the median latency."""
        return self.batch_size / latency.median

    def to_json(self) -> dict[str, Any]:
        """The figures for the result file, with their units in the names."""
        sides = {
            name: {
                **latency.in_milliseconds(),
                "pictures_per_second": self.throughput(latency),
            }
            for name, latency in (("guarded", self.guarded), ("bare", self.bare))
        }
        ratio = {"median": self.ratio, "p5": self.ratio_p5, "p95": self.ratio_p95}
        return {"batch_size": self.batch_size, "rounds": self.rounds, **sides, "ratio": ratio}


def measure(
    guarded: Run,
    bare: Run,
    batch_sizes: Sequence[int],
    *,
    least_seconds: float,
    least_rounds: int = LEAST_ROUNDS,
    warm_up_rounds: int = WARM_UP_ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
    on_measured: Callable[[Measured], None] | None = None,
) -> list[Measured]:
    """Time both ways at each batch size, in pairs whose order alternates.

    Args:
        guarded: runs the guarded graph.
        bare: runs the classifier alone.
        batch_sizes: pictures in a batch, each at least 1.
        least_seconds: how long each batch size is measured at the least, warm-up not counted.
        least_rounds: pairs at the least; one more where the number is odd, so that each of the two
            goes first equally often.
        warm_up_rounds: pairs that are run before and not counted, at every batch size.
        clock: seconds, from any origin.
        on_measured: told of each batch size when it is done.

    Raises:
        InvalidArgumentError: no batch size or one below 1, no round, or a negative or infinite
            time.
    """
    if not batch_sizes or min(batch_sizes) < 1 or least_rounds < 1 or not 0 <= least_seconds < inf:
        raise InvalidArgumentError(
            f"batch sizes {list(batch_sizes)}, {least_rounds} rounds, {least_seconds} seconds; "
            "expected batch sizes and rounds of at least 1, and finite seconds of at least 0."
        )
    results = []
    for size in batch_sizes:
        for turn in range(warm_up_rounds):
            _pair(guarded, bare, size, turn, clock)
        times: list[tuple[float, float]] = []
        begin = clock()
        while len(times) < least_rounds or len(times) % 2 or clock() - begin < least_seconds:
            times.append(_pair(guarded, bare, size, len(times), clock))
        results.append(summarise(size, np.array(times)))
        if on_measured is not None:
            on_measured(results[-1])
    return results


def summarise(batch_size: int, times: npt.NDArray[np.float64]) -> Measured:
    """Quantiles of the paired times `(rounds, 2)` in seconds: guarded, bare.

    The ratio's quantiles are taken on the logarithm, so that exchanging the two gives exactly the
    inverse, and a pair slowed on one side is balanced by one slowed on the other.
    """
    low, middle, high = np.exp(
        np.quantile(np.log(times[:, 0]) - np.log(times[:, 1]), (0.05, 0.5, 0.95))
    )
    return Measured(
        batch_size=batch_size,
        rounds=len(times),
        guarded=_latency(times[:, 0]),
        bare=_latency(times[:, 1]),
        ratio=float(middle),
        ratio_p5=float(low),
        ratio_p95=float(high),
    )


def _latency(seconds: npt.NDArray[np.float64]) -> Latency:
    median, p5, p95, p99 = np.quantile(seconds, (0.5, 0.05, 0.95, 0.99))
    return Latency(median=float(median), p5=float(p5), p95=float(p95), p99=float(p99))


def _pair(
    guarded: Run, bare: Run, size: int, turn: int, clock: Callable[[], float]
) -> tuple[float, float]:
    if turn % 2:
        second = _time(bare, size, clock)
        return _time(guarded, size, clock), second
    return _time(guarded, size, clock), _time(bare, size, clock)


def _time(run: Run, size: int, clock: Callable[[], float]) -> float:
    begin = clock()
    run(size)
    return clock() - begin
