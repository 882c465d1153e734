"""The attack alarm: a sequential test of flags against the calibrated false-positive rate.

Flags are 0 or 1. While nobody attacks, the next picture is flagged with a chance of at most p0,
whatever came before: `P(x_t = 1 | x_1, ..., x_t-1) <= p0`. Nothing else is assumed: chances may
vary below p0 and depend on the past. An attack is any later time from which the chance is higher.

**p0.** The threshold is the r-th smallest of n clean calibration scores, `r = ceil((n + 1) (1 -
rate))` (split conformal prediction). Which share of all clean pictures lies above it depends on the
n that were drawn: the share is Beta(n + 1 - r, r), or smaller where scores tie (Vovk, "Conditional
validity of inductive conformal predictors", Machine Learning 92, 2013). p0 is its quantile at
`CONFIDENCE`, which is the bound of Clopper and Pearson (Biometrika 26, 1934) for n - r flags among
n: the p at which as few as n - r of n are seen with a chance of 1 - `CONFIDENCE`.

**The test** is the mixture of Shiryaev-Roberts e-detectors (Shin, Ramdas, Rinaldo, "E-detectors: a
nonparametric framework for sequential change detection", New England Journal of Statistics in Data
Science, 2023) over K alternatives p_1 ... p_K above p0, with equal weights:

    R_k <- (1 + R_k) L_k(x),  L_k(1) = p_k / p0,  L_k(0) = (1 - p_k) / (1 - p0),  M = mean of R_k

and the alarm is raised when M reaches N. As `E[L_k(x_t) | past] <= 1`, M_t - t is a
supermartingale until then, so that optional stopping gives, from every start,

- at least N clean pictures until a false alarm, on average;
- a chance of at most m / N of a false alarm among m clean pictures, and at most m / N of them
  expected, restarts included.

It costs K products and sums for each picture, in float64 without logarithms: R_k is a sum and
product of positive numbers, lies above L_k(0) after the first picture and rests once N is
reached, so nothing is cancelled, lost or overflows.

The bounds hold for traffic that is exchangeable with the calibration pictures. Other pictures than
those (another camera, other subjects) may be flagged more often; the alarm is then raised too, and
says that the guard is to be calibrated on pictures of this traffic.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from prn_guard.errors import InvalidArgumentError

CONFIDENCE: Final = 0.999
"""That p0 bounds the false-positive rate. It fails for one guard in a thousand, and for that one
false alarms come more often than stated. 0.99 would find weak attacks sooner (by how much, stands
in docs/attack-alarm.md), but false alarms of one guard in a hundred would be nobody's exception."""
ALTERNATIVES: Final = 12
"""Shares p_k, evenly spaced in log-odds: about a factor of two apart in odds, so that no attack is
far from one of them. With 24, delays come out within 4 % of these."""
_STRONGEST: Final = 0.02
"""`(1 - p_K) / (1 - p0)`: one unflagged picture leaves no less of the evidence."""
_MOST: Final = 1e15
"""Above it float64 would not tell 1 + R from R."""
_EXPECTED_IN_BLOCK: Final = 10.0


@final
@dataclass(frozen=True, slots=True)
class AlarmState:
    """What the alarm shows."""

    flagged_share: float
    """Of the last `window` pictures; 0 before the first. For display: the test does not use it."""
    window: int
    """Pictures that `flagged_share` is over: fewer than configured while fewer were seen."""
    seen: int
    """Pictures since the start."""
    statistic: float
    """`log10(1 + M)`: the decimal logarithm of the evidence; 0 at the start, finite always."""
    threshold: float
    """`log10(1 + N)`: where the alarm is raised."""
    raised: bool
    clean_share: float
    """p0: the share of clean pictures that may be flagged without an attack."""
    alarms: int
    """How often the alarm was raised since the start."""


@final
class AttackAlarm:
    """Raised when more pictures are flagged than calibration explains.

    Once raised, the test rests and the alarm stays raised until somebody acknowledges it, or until
    it recovers: when of the B pictures of a whole block, counted from when it was raised, no more
    than `B * false_positive_rate` are flagged, for `B = max(window, 10 / false_positive_rate)`.
    Either way the test starts again from nothing. It keeps no clock and does no I/O; calls must not
    overlap.

    Args:
        false_positive_rate: that the threshold was calibrated for, in (0, 1).
        calibration_pictures: n, on which it was calibrated.
        pictures_between_false_alarms: N, at least 1.
        window: pictures that the displayed share is over, at least 1.

    Raises:
        InvalidArgumentError: an argument is outside its range, or no threshold can be calibrated
            for that rate on so few pictures.
    """

    def __init__(
        self,
        *,
        false_positive_rate: float,
        calibration_pictures: int,
        pictures_between_false_alarms: float = 1e7,
        window: int = 1000,
    ) -> None:
        between = pictures_between_false_alarms
        if not 1 <= between <= _MOST:  # false for NaN too
            raise InvalidArgumentError(
                f"pictures_between_false_alarms is {between}; expected a number from 1 to "
                f"{_MOST:g}."
            )
        if window < 1:
            raise InvalidArgumentError(f"window is {window}; expected at least 1.")
        self._clean_share = clean_share_bound(false_positive_rate, calibration_pictures)
        self._between = float(between)
        self._ratios = likelihood_ratios(self._clean_share)
        self._evidence = [0.0] * ALTERNATIVES
        self._recent: deque[bool] = deque(maxlen=window)
        self._recent_flags = 0
        self._block = max(window, math.ceil(_EXPECTED_IN_BLOCK / false_positive_rate))
        self._block_most = self._block * false_positive_rate
        self._block_seen = self._block_flags = 0
        self._raised = False
        self._seen = self._alarms = 0

    def observe(self, flagged: Sequence[bool]) -> bool:
        """Take the flags of further pictures, in the order in which they were answered.

        Returns:
            Whether the alarm was raised by one of them.
        """
        before = self._alarms
        for flag in flagged:
            self._slide(bool(flag))
            if self._raised:
                self._recover(bool(flag))
            else:
                self._test(bool(flag))
        return self._alarms > before

    def acknowledge(self) -> None:
        """Take the alarm back and start the test again, from nothing."""
        self._raised = False
        self._evidence = [0.0] * ALTERNATIVES
        self._block_seen = self._block_flags = 0

    @property
    def state(self) -> AlarmState:
        """What to show now."""
        window = len(self._recent)
        return AlarmState(
            flagged_share=self._recent_flags / window if window else 0.0,
            window=window,
            seen=self._seen,
            statistic=math.log10(1 + sum(self._evidence) / ALTERNATIVES),
            threshold=math.log10(1 + self._between),
            raised=self._raised,
            clean_share=self._clean_share,
            alarms=self._alarms,
        )

    def _slide(self, flag: bool) -> None:
        self._seen += 1
        if len(self._recent) == self._recent.maxlen:
            self._recent_flags -= self._recent[0]
        self._recent.append(flag)
        self._recent_flags += flag

    def _test(self, flag: bool) -> None:
        ratios = self._ratios[flag]
        self._evidence = [
            (1.0 + one) * ratio for one, ratio in zip(self._evidence, ratios, strict=True)
        ]
        if sum(self._evidence) >= self._between * ALTERNATIVES:
            self._raised = True
            self._alarms += 1

    def _recover(self, flag: bool) -> None:
        self._block_seen += 1
        self._block_flags += flag
        if self._block_seen < self._block:
            return
        if self._block_flags <= self._block_most:
            self.acknowledge()
        self._block_seen = self._block_flags = 0


def likelihood_ratios(clean_share: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`(1 - p_k) / (1 - p0)` and `p_k / p0` for the alternatives p_1 < ... < p_K.

    Args:
        clean_share: p0, in (0, 1).
    """
    strongest = 1 - _STRONGEST * (1 - clean_share)
    low, high = (math.log(share / (1 - share)) for share in (clean_share, strongest))
    odds = [
        math.exp(low + (high - low) * place / ALTERNATIVES) for place in range(1, ALTERNATIVES + 1)
    ]
    shares = [one / (1 + one) for one in odds]
    return (
        tuple((1 - share) / (1 - clean_share) for share in shares),
        tuple(share / clean_share for share in shares),
    )


def clean_share_bound(
    false_positive_rate: float, calibration_pictures: int, *, confidence: float = CONFIDENCE
) -> float:
    """p0: a bound of the share of clean pictures above a calibrated threshold.

    Args:
        false_positive_rate: asked for at calibration, in (0, 1).
        calibration_pictures: n, at least 1.
        confidence: of the bound over draws of calibration pictures, in (0, 1).

    Returns:
        The quantile at `confidence` of Beta(n + 1 - r, r), r as above.

    Raises:
        InvalidArgumentError: the rate is outside (0, 1), or n is too small for it.
    """
    rate, count = false_positive_rate, calibration_pictures
    if not 0 < rate < 1:
        raise InvalidArgumentError(
            f"The false-positive rate is {rate}; an alarm needs one between 0 and 1, exclusive."
        )
    rank = math.ceil((count + 1) * (1 - rate))  # as calibration computes it, rounding included
    if not 1 <= rank <= count:
        raise InvalidArgumentError(
            f"No threshold for a false-positive rate of {rate:g} can come of {count} calibration "
            "pictures, so what is normal is not known. Export the guard anew."
        )
    return _upper_bound(count - rank, count, 1 - confidence)


def _upper_bound(flags: int, count: int, chance: float) -> float:
    """The p at which at most `flags` of `count` are seen with that chance, by bisection."""
    steps = np.arange(flags, dtype=np.float64)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((count - steps) / (steps + 1)))])
    numbers = np.arange(flags + 1, dtype=np.float64)
    low, high = flags / count, 1.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        terms = log_choose + numbers * math.log(middle) + (count - numbers) * math.log1p(-middle)
        most = float(terms.max())
        if most + math.log(float(np.exp(terms - most).sum())) > math.log(chance):
            low = middle
        else:
            high = middle
    return high
