"""The detector's score against NumPy and against scikit-learn's own decision function."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from prn_guard.errors import InvalidArgumentError
from prn_guard.nn.detector import (
    Detector,
    DetectorSpec,
    build_detector,
    detector_spec,
    pool_for,
    radial_basis,
)
from tests.reference import dct as reference
from tests.reference import svm
from tests.tolerances import LOG_FEATURE, RADIAL_BASIS, SCORE, assert_close

RBF = DetectorSpec(kernel="rbf", features="bands", bands=4, support_vectors=7)
FOUR_BANDS = {12: [0, 1, 3, 6, 12], 10: [0, 1, 2, 5, 10]}
TEN_BANDS = {
    8: [0, 1, 2, 3, 4, 5, 6, 7, 8],
    28: [0, 1, 2, 3, 4, 5, 7, 10, 14, 20, 28],
    32: [0, 1, 2, 3, 4, 5, 7, 11, 15, 22, 32],
    37: [0, 1, 2, 3, 4, 5, 8, 12, 17, 25, 37],
    53: [0, 1, 2, 3, 4, 6, 10, 15, 23, 35, 53],
    224: [0, 1, 2, 4, 8, 14, 25, 43, 75, 130, 224],
}


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
    result = build_detector(DetectorSpec(pool=pool), height, width).features(differences)
    assert result.shape == (4, (height // pool) * (width // pool))
    assert_close(result, reference.features(differences, pool=pool), LOG_FEATURE)


@pytest.mark.parametrize(
    "shape", [(1, 28, 28), (3, 32, 32), (3, 37, 53), (3, 53, 37), (1, 8, 8), (3, 224, 224)]
)
def test_features_of_bands_are_the_averages_over_them(shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    differences = _differences(3, channels=channels, height=height, width=width)
    result = build_detector(detector_spec(height, width, features="bands"), height, width).features(
        differences
    )
    edges = TEN_BANDS[height], TEN_BANDS[width]
    assert result.shape == (3, min(10, height) * min(10, width))
    assert_close(result, reference.band_features(differences, edges), LOG_FEATURE)


@pytest.mark.parametrize("pool", [1, 2])
def test_scores_are_those_computed_by_hand(pool: int) -> None:
    differences, rng = _differences(5), np.random.default_rng(0)
    count = (12 // pool) * (10 // pool)
    mean, scale = rng.normal(-5, 1, count), rng.uniform(0.5, 2, count)
    weight = rng.normal(0, 1, count) / np.sqrt(count)
    detector = build_detector(DetectorSpec(pool=pool), 12, 10)
    _fill(detector, mean=mean, scale=scale, weight=weight, bias=np.array(0.25))
    oracle = svm.score(reference.features(differences, pool=pool), mean, scale, weight, 0.25)
    assert_close(detector(differences), oracle, SCORE)


def test_scores_of_radial_basis_functions_are_those_computed_by_hand() -> None:
    differences, rng = _differences(5), np.random.default_rng(0)
    mean, scale = rng.normal(-3, 1, 16), rng.uniform(0.5, 2, 16)
    support, weight = rng.normal(0, 1, (7, 16)), rng.normal(0, 1, 7)
    detector = build_detector(RBF, 12, 10)
    _fill(detector, mean=mean, scale=scale, support=support, weight=weight)
    _fill(detector, gamma=np.array(0.03), bias=np.array(0.25))
    features = reference.band_features(differences, (FOUR_BANDS[12], FOUR_BANDS[10]))
    oracle = svm.rbf_score(features, mean, scale, support, 0.03, weight, 0.25)
    assert np.ptp(oracle) > 20 * SCORE.absolute
    assert_close(detector(differences), oracle, SCORE)


def test_scores_are_scikit_learns_decision_function() -> None:
    differences = _differences(60)
    features = reference.features(differences, pool=2)
    pipeline = make_pipeline(StandardScaler(), LinearSVC(C=0.01, random_state=0))
    pipeline.fit(features[:40], np.arange(40) % 2)
    scaler, machine = pipeline[0], pipeline[1]
    detector = build_detector(DetectorSpec(pool=2), 12, 10)
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


def test_scores_of_radial_basis_functions_are_scikit_learns() -> None:
    differences = _differences(60)
    features = reference.band_features(differences, (FOUR_BANDS[12], FOUR_BANDS[10]))
    pipeline = make_pipeline(StandardScaler(), SVC(gamma=0.02))
    pipeline.fit(features[:40], np.arange(40) % 2)
    scaler, machine = pipeline[0], pipeline[1]
    spec = RBF.model_copy(update={"support_vectors": len(machine.support_)})
    detector = build_detector(spec, 12, 10)
    _fill(
        detector,
        mean=scaler.mean_,
        scale=scaler.scale_,
        support=machine.support_vectors_,
        gamma=np.array(0.02),
        weight=machine.dual_coef_[0],
        bias=machine.intercept_[0],
    )
    unseen, oracle = detector(differences[40:]), pipeline.decision_function(features[40:])
    assert_close(unseen, oracle, SCORE)
    assert (unseen > 0).tolist() == [bool(number % 2) for number in range(20)]


def test_radial_basis_functions_of_points_near_and_far() -> None:
    rng = np.random.default_rng(1)
    support = rng.normal(0, 1, (9, 100))
    points = np.concatenate([support, rng.normal(0, 5, (9, 100)), [np.full(100, 1e3)]])
    result = radial_basis(
        torch.from_numpy(points).float(), torch.from_numpy(support).float(), torch.tensor(0.01)
    )
    squares = ((points[:, None] - support) ** 2).sum(axis=2)
    assert_close(result, np.exp(-0.01 * squares), RADIAL_BASIS)
    assert result[-1].tolist() == [0.0] * 9


@pytest.mark.parametrize(
    ("height", "width", "pool"), [(12, 12, 1), (32, 32, 1), (63, 80, 1), (64, 64, 2), (224, 300, 7)]
)
def test_larger_planes_are_pooled_to_about_32_cells_a_side(
    height: int, width: int, pool: int
) -> None:
    assert pool_for(height, width) == pool
    assert detector_spec(height, width) == DetectorSpec(pool=pool)


def test_the_fitted_state_is_saved_and_the_matrices_are_rebuilt() -> None:
    linear = {"mean", "scale", "weight", "bias", "threshold"}
    assert set(build_detector(DetectorSpec(), 8, 8).state_dict()) == linear
    assert set(build_detector(RBF, 8, 8).state_dict()) == linear | {"support", "gamma"}


def test_the_largest_default_adds_less_than_half_a_megabyte() -> None:
    detector = build_detector(detector_spec(224, 224, kernel="rbf"), 224, 224)
    size = sum(value.nbytes for value in detector.state_dict().values())
    assert 400_000 < size < 410_000


def test_support_vectors_that_are_planes_are_refused() -> None:
    with pytest.raises(ValidationError, match="averages over frequency bands"):
        DetectorSpec(kernel="rbf", features="plane")
    with pytest.raises(InvalidArgumentError, match=r"'rbf' .* expected 'bands'"):
        detector_spec(32, 32, kernel="rbf", features="plane")
    assert detector_spec(32, 32, kernel="rbf").features == "bands"


def test_cells_larger_than_the_pictures_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"8x12 .* 9x9"):
        build_detector(DetectorSpec(pool=9), 8, 12)


@pytest.mark.parametrize(
    ("shape", "side"),
    [((1, 12, 12), 2), ((3, 12, 10), 8), ((3, 11, 32), 2), ((3, 5, 12), 8), ((1, 17, 9), 4)],
)
def test_energies_are_means_of_logarithms_over_blocks(
    shape: tuple[int, int, int], side: int
) -> None:
    channels, height, width = shape
    differences = _differences(4, channels=channels, height=height, width=width)
    differences[0] = 0
    detector = build_detector(DetectorSpec(features="energy", bands=side), height, width)
    result = detector.features(differences)
    expected = reference.energy_features(differences, side)
    assert_close(result, expected, LOG_FEATURE)
    assert detector.features.count == result.shape[1] == min(side, height) * min(side, width)
    assert_close(result[0], np.log(1e-3), LOG_FEATURE)


def test_small_pictures_are_looked_at_in_smaller_blocks() -> None:
    assert detector_spec(32, 64, features="energy") == DetectorSpec(features="energy", bands=2)
    large = detector_spec(64, 65, features="energy")
    assert (large.features, large.bands) == ("energy", 8)


@pytest.mark.parametrize("side", [2, 8])
def test_energy_in_one_place_moves_them_less_than_the_same_everywhere(side: int) -> None:
    """An edge, and a perturbation: the spectrum of the whole picture cannot tell them apart."""
    everywhere = 0.04 * torch.ones(1, 3, 32, 32)
    everywhere[..., ::2] *= -1
    here = torch.zeros(1, 3, 32, 32)
    here[..., :8, :8] = 4 * everywhere[..., :8, :8]
    assert_close(here.square().sum(), everywhere.square().sum(), SCORE)
    features = build_detector(DetectorSpec(features="energy", bands=side), 32, 32).features
    nothing, local, spread = (
        features(one).sum() for one in (torch.zeros(1, 3, 32, 32), here, everywhere)
    )
    assert float(spread - nothing) > 8 * float(local - nothing) > 0


def test_energies_do_not_depend_on_sign_or_order_of_channels() -> None:
    differences = _differences(4)
    features = build_detector(DetectorSpec(features="energy", bands=2), 12, 10).features
    expected = features(differences)
    assert_close(features(-differences), expected, LOG_FEATURE)
    assert_close(features(differences[:, [2, 0, 1]]), expected, LOG_FEATURE)


def test_the_gradient_of_an_energy_is_finite_where_nothing_is_removed() -> None:
    differences = torch.zeros(1, 3, 12, 10, requires_grad=True)
    features = build_detector(DetectorSpec(features="energy", bands=2), 12, 10).features
    features(differences).sum().backward()
    assert differences.grad is not None
    assert not differences.grad.any()


def test_a_radial_basis_of_energies_may_be_asked_for() -> None:
    spec = detector_spec(12, 10, kernel="rbf", features="energy")
    assert (spec.kernel, spec.features, spec.bands) == ("rbf", "energy", 2)
