"""The detector's score against NumPy and against scikit-learn's own decision function."""

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from prn_guard.nn.detector import Detector, pool_for
from tests.reference import dct as reference
from tests.reference import svm
from tests.tolerances import LOG_FEATURE, SCORE, assert_close


def _differences(
    count: int, *, channels: int = 3, height: int = 12, width: int = 10
) -> torch.Tensor:
    """Quiet noise, every second picture with a checkerboard on top."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(count, channels, height, width, generator=generator) * 0.02
    board = (torch.arange(height)[:, None] + torch.arange(width)[None, :]) % 2 * 0.08 - 0.04
    return noise + board * (torch.arange(count) % 2)[:, None, None, None]


def _fill(detector: Detector, **values: np.ndarray) -> None:
    for name, value in values.items():
        getattr(detector, name).copy_(torch.from_numpy(np.asarray(value)).float())


@pytest.mark.parametrize(("height", "width", "pool"), [(12, 10, 1), (12, 10, 2), (13, 11, 3)])
def test_features_are_the_averages_of_whole_cells(height: int, width: int, pool: int) -> None:
    differences = _differences(4, height=height, width=width)
    result = Detector(height, width, pool=pool).features(differences)
    assert result.shape == (4, (height // pool) * (width // pool))
    assert_close(result, reference.features(differences, pool=pool), LOG_FEATURE)


@pytest.mark.parametrize("pool", [1, 2])
def test_scores_are_those_computed_by_hand(pool: int) -> None:
    differences, rng = _differences(5), np.random.default_rng(0)
    count = (12 // pool) * (10 // pool)
    mean, scale = rng.normal(-5, 1, count), rng.uniform(0.5, 2, count)
    weight = rng.normal(0, 1, count) / np.sqrt(count)
    detector = Detector(12, 10, pool=pool)
    _fill(detector, mean=mean, scale=scale, weight=weight, bias=np.array(0.25))
    oracle = svm.score(reference.features(differences, pool=pool), mean, scale, weight, 0.25)
    assert_close(detector(differences), oracle, SCORE)


def test_scores_are_scikit_learns_decision_function() -> None:
    differences = _differences(60)
    features = reference.features(differences, pool=2)
    pipeline = make_pipeline(StandardScaler(), LinearSVC(C=0.01, random_state=0))
    pipeline.fit(features[:40], np.arange(40) % 2)
    scaler, machine = pipeline[0], pipeline[1]
    detector = Detector(12, 10, pool=2)
    _fill(
        detector,
        mean=scaler.mean_,
        scale=scaler.scale_,
        weight=machine.coef_[0],
        bias=machine.intercept_[0],
    )
    unseen, oracle = detector(differences[40:]), pipeline.decision_function(features[40:])
    assert_close(unseen, oracle, SCORE)
    assert (unseen > 0).tolist() == [bool(number % 2) for number in range(20)]


@pytest.mark.parametrize(
    ("height", "width", "pool"), [(12, 12, 1), (32, 32, 1), (63, 80, 1), (64, 64, 2), (224, 300, 7)]
)
def test_larger_planes_are_pooled_to_about_32_cells_a_side(
    height: int, width: int, pool: int
) -> None:
    assert pool_for(height, width) == pool


def test_the_fitted_state_is_saved_and_the_matrices_are_rebuilt() -> None:
    names = set(Detector(8, 8, pool=1).state_dict())
    assert names == {"mean", "scale", "weight", "bias", "threshold"}
