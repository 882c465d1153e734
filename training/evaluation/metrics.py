"""The figures: the paper's four, what it leaves out, and an interval beside each.

Source: PRN paper, section 5, "Evaluation metric"; Wilson's score interval for proportions, the
percentile bootstrap over pictures for ratios of them.

Everything here works on plain arrays of per-picture outcomes, so that each figure can be checked by
hand.
"""

import math
from collections.abc import Callable
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

CONFIDENCE = 0.95
RESAMPLES = 1000

Outcomes = NDArray[np.float64]
"""One value per picture, usually 1 for right and 0 for wrong."""


class Figure(TypedDict):
    """A measured fraction with its sample size and confidence interval."""

    value: float
    n: int
    low: float
    high: float


def proportion(outcomes: Outcomes) -> Figure:
    """Mean of per-picture outcomes `(N,)` in [0, 1], with Wilson's score interval.

    A picture that was tried under several perturbations enters with its mean outcome, so that n is
    the number of pictures: conservative, as the tries of one picture are not independent.
    """
    count = len(outcomes)
    share = float(np.mean(outcomes))
    low, high = wilson_interval(share, count)
    return Figure(value=share, n=count, low=low, high=high)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's score interval at `CONFIDENCE` for `share` of `count` tries."""
    z = float(ndtri(0.5 + CONFIDENCE / 2))
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # At a share of 0 or 1 an end lies on the share itself, and rounding could put it beyond.
    return max(0.0, min(share, (centre - half) / scale)), min(
        1.0, max(share, (centre + half) / scale)
    )


def ratio(
    statistic: Callable[[NDArray[np.float64]], float],
    outcomes: NDArray[np.float64],
    *,
    seed: int,
) -> Figure:
    """A statistic of column means, with a percentile bootstrap over pictures.

    Args:
        statistic: maps the means `(M,)` of the columns to the figure.
        outcomes: `(N, M)`, one row per picture; rows are resampled together, so that what was
            measured on the same picture stays paired.
        seed: of the resampling.
    """
    count = len(outcomes)
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        weights = generator.multinomial(count, np.full(count, 1 / count))
        drawn.append(statistic(weights @ outcomes / count))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Figure(value=statistic(outcomes.mean(axis=0)), n=count, low=float(low), high=float(high))


def prn_gain(rectified: Outcomes, perturbed: Outcomes, *, seed: int = 0) -> Figure:
    """`(acc(rectified perturbed) - acc(perturbed)) / acc(rectified perturbed)`; paired arrays."""
    return ratio(
        lambda means: float((means[0] - means[1]) / max(means[0], 1e-12)),
        np.stack([rectified, perturbed], axis=1),
        seed=seed,
    )


def relative_accuracy(defended: Outcomes, clean: Outcomes, *, seed: int = 0) -> Figure:
    """`acc(defended) / acc(clean)`: PRN-restoration and defense rate are both of this form."""
    return ratio(
        lambda means: float(means[0] / max(means[1], 1e-12)),
        np.stack([defended, clean], axis=1),
        seed=seed,
    )


def roc_curve(clean_scores: Outcomes, perturbed_scores: Outcomes) -> dict[str, Any]:
    """False- and true-positive rates over all thresholds, the area, and rates at 1 % and 5 %.

    The area is the Mann-Whitney statistic: the chance that a perturbed picture scores higher than
    a clean one, ties counted half.
    """
    clean, perturbed = np.sort(clean_scores), np.sort(perturbed_scores)
    thresholds = np.unique(np.concatenate([clean, perturbed]))
    thresholds = np.concatenate([[-np.inf], thresholds])
    false_positive = _share_above(clean, thresholds)
    true_positive = _share_above(perturbed, thresholds)
    below = np.searchsorted(clean, perturbed, side="left")
    ties = np.searchsorted(clean, perturbed, side="right") - below
    area = float(np.mean(below + 0.5 * ties) / len(clean))
    kept = np.unique(np.linspace(0, len(thresholds) - 1, 400).astype(int))
    return {
        "false_positive_rate": false_positive[kept].tolist(),
        "true_positive_rate": true_positive[kept].tolist(),
        "area": area,
        "detection_at": {
            f"{rate:g}": float(true_positive[np.argmax(false_positive <= rate)])
            for rate in (0.01, 0.05)
        },
    }


def _share_above(ordered: Outcomes, thresholds: Outcomes) -> Outcomes:
    # Counted before it is divided: 1 - 99 / 100 is above 0.01 in floating point.
    above = len(ordered) - np.searchsorted(ordered, thresholds, side="right")
    return np.asarray(above / len(ordered))
