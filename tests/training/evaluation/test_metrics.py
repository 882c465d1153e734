"""The figures against numbers worked out by hand and against SciPy's and scikit-learn's."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn import metrics as sklearn_metrics

from tests.tolerances import BOOTSTRAP, FIGURE, assert_close
from training.evaluation.metrics import (
    prn_gain,
    proportion,
    relative_accuracy,
    roc_curve,
    wilson_interval,
)

Array = NDArray[np.float64]


def _outcomes(right: int, count: int) -> Array:
    return np.repeat([1.0, 0.0], [right, count - right])


@pytest.mark.parametrize(("right", "count"), [(0, 3), (1, 1), (3, 8), (50, 100), (9999, 10000)])
def test_the_interval_of_a_proportion_is_scipys_wilson_interval(right: int, count: int) -> None:
    figure = proportion(_outcomes(right, count))
    expected = binomtest(right, count).proportion_ci(confidence_level=0.95, method="wilson")
    assert (figure["value"], figure["n"]) == (right / count, count)
    assert_close([figure["low"], figure["high"]], [expected.low, expected.high], FIGURE)


def test_the_interval_always_holds_the_share() -> None:
    for count in range(1, 300):
        for right in (0, 1, count // 2, count):
            low, high = wilson_interval(right / count, count)
            assert 0 <= low <= right / count <= high <= 1


def test_a_picture_tried_several_times_counts_once() -> None:
    figure = proportion(np.array([1.0, 0.5, 0.25, 0.25]))
    assert (figure["value"], figure["n"]) == (0.5, 4)
    assert (figure["low"], figure["high"]) == wilson_interval(0.5, 4)


def test_prn_gain_by_hand() -> None:
    # Eight of ten right when rectified, two of ten when not: (0.8 - 0.2) / 0.8.
    figure = prn_gain(_outcomes(8, 10), _outcomes(2, 10))
    assert_close(figure["value"], 0.75, FIGURE)
    assert figure["n"] == 10
    worse = prn_gain(_outcomes(2, 10), _outcomes(8, 10))
    assert_close(worse["value"], -3.0, FIGURE)


def test_relative_accuracy_by_hand() -> None:
    assert_close(relative_accuracy(_outcomes(6, 10), _outcomes(8, 10))["value"], 0.75, FIGURE)
    same = relative_accuracy(_outcomes(6, 10), _outcomes(6, 10))
    assert (same["value"], same["low"], same["high"]) == (1.0, 1.0, 1.0)


def test_nothing_right_is_no_division_by_zero() -> None:
    nothing = np.zeros(5)
    assert relative_accuracy(nothing, nothing)["value"] == 0
    assert prn_gain(nothing, nothing)["value"] == 0
    assert prn_gain(nothing, np.ones(5))["value"] < -1e6


def _pairs(count: int) -> tuple[Array, Array]:
    """Correlated outcomes: right on 85 % under one, on 70 % of those and 20 % of the rest else."""
    generator = np.random.default_rng(3)
    first = generator.random(count) < 0.85
    second = generator.random(count) < np.where(first, 0.7, 0.2)
    return first.astype(np.float64), second.astype(np.float64)


@pytest.mark.parametrize("kind", ["gain", "relative"])
def test_the_bootstrap_agrees_with_the_delta_method(kind: str) -> None:
    first, second = _pairs(2000)
    figure = prn_gain(first, second) if kind == "gain" else relative_accuracy(second, first)
    ratio = second.mean() / first.mean()
    # Both figures are the ratio, or one minus it: the linearised variance is the same.
    deviation = float(np.std(second - ratio * first)) / first.mean() / math.sqrt(len(first))
    centre = 1 - ratio if kind == "gain" else ratio
    assert_close(figure["value"], centre, FIGURE)
    assert_close(figure["high"] - centre, 1.96 * deviation, BOOTSTRAP)
    assert_close(centre - figure["low"], 1.96 * deviation, BOOTSTRAP)


def test_the_bootstrap_keeps_pairs_together() -> None:
    first, second = _pairs(500)
    paired = prn_gain(first, second)
    shuffled = prn_gain(first, np.random.default_rng(0).permutation(second))
    assert_close(paired["value"], shuffled["value"], FIGURE)
    assert paired["high"] - paired["low"] < 0.95 * (shuffled["high"] - shuffled["low"])


def test_the_bootstrap_repeats_under_its_seed() -> None:
    first, second = _pairs(60)
    assert prn_gain(first, second, seed=4) == prn_gain(first, second, seed=4)
    assert prn_gain(first, second, seed=4) != prn_gain(first, second, seed=5)


def _scores(seed: int, *, ties: bool) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    clean, perturbed = generator.normal(0, 1, 100), generator.normal(1.5, 1, 60)
    return (clean.round(), perturbed.round()) if ties else (clean, perturbed)


@pytest.mark.parametrize("ties", [True, False])
def test_the_curve_and_its_area_are_scikit_learns(*, ties: bool) -> None:
    clean, perturbed = _scores(1, ties=ties)
    truth = np.repeat([0, 1], [len(clean), len(perturbed)])
    scores = np.concatenate([clean, perturbed])
    curve = roc_curve(clean, perturbed)
    assert_close(curve["area"], sklearn_metrics.roc_auc_score(truth, scores), FIGURE)
    false, true, _ = sklearn_metrics.roc_curve(truth, scores, drop_intermediate=False)
    assert_close(curve["false_positive_rate"][::-1], false, FIGURE)
    assert_close(curve["true_positive_rate"][::-1], true, FIGURE)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_detection_at_a_rate_is_the_most_that_any_threshold_gives(seed: int, *, ties: bool) -> None:
    clean, perturbed = _scores(seed, ties=ties)
    found = roc_curve(clean, perturbed)["detection_at"]
    for rate, most_alarms in ((0.01, 1), (0.05, 5)):  # of 100 clean pictures
        best = max(
            np.count_nonzero(perturbed > threshold)
            for threshold in [-np.inf, *clean, *perturbed]
            if np.count_nonzero(clean > threshold) <= most_alarms
        )
        assert found[f"{rate:g}"] == best / len(perturbed)


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    generator = np.random.default_rng(0)
    clean, perturbed = generator.normal(0, 1, 3000), generator.normal(1, 1, 3000)
    curve = roc_curve(clean, perturbed)
    false, true = curve["false_positive_rate"], curve["true_positive_rate"]
    assert len(false) == len(true) == 400
    assert (false[0], true[0], false[-1], true[-1]) == (1, 1, 0, 0)
    assert np.all(np.diff(false) <= 0)
    assert np.all(np.diff(true) <= 0)
