"""The detector against scikit-learn's own pipeline, and the threshold against its promise."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from torch import Tensor, nn

from prn_guard.errors import DataError
from prn_guard.nn.detector import Kernel, detector_spec
from prn_guard.nn.frequency_bands import octave_edges
from prn_guard.nn.rectifier import RectifierSpec, build_rectifier
from tests.reference import dct
from tests.tolerances import CONFORMAL, FIGURE, SCORE, assert_close
from tests.training.small import SHAPE, everything, pictures
from training.datasets import ArrayPictures, Subset
from training.guard.fit_detector import (
    BATCH,
    conformal_rank,
    conformal_threshold,
    fit_detector,
    rbf_machine,
    scores,
)
from training.guard.rectifier_batches import perturb_half
from training.randomness import generator_for

RATE = 0.1
COUNT = BATCH + 44


def _rectifier() -> nn.Module:
    """Of random weights: it removes something from every picture."""
    generator = torch.Generator().manual_seed(0)
    rectifier = build_rectifier(RectifierSpec(channels=1, width=4, blocks=1))
    with torch.no_grad():
        for value in rectifier.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return rectifier.eval()


def _perturbations() -> Tensor:
    return 0.15 * torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1)).sign()


SPECS = {
    "plane": detector_spec(12, 12),
    "bands": detector_spec(12, 12, features="bands"),
    "rbf": detector_spec(12, 12, kernel="rbf"),
}
EDGES = list(octave_edges(12, 10))


def _features(form: str, removed: Tensor) -> NDArray[np.float64]:
    return dct.features(removed) if form == "plane" else dct.band_features(removed, (EDGES, EDGES))


def _machine(name: str) -> BaseEstimator:
    if name == "rbf":
        return SVC(C=1, gamma=0.1 / 100)
    return LinearSVC(C=0.01, dual=False, random_state=0, max_iter=5000)


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_the_scores_are_those_of_scikit_learns_pipeline(name: str) -> None:
    rectifier, known, clean = _rectifier(), pictures(COUNT, seed=1), pictures(90, seed=2)
    detector, found = fit_detector(
        rectifier,
        known,
        clean,
        _perturbations(),
        seed=7,
        false_positive_rate=RATE,
        spec=SPECS[name],
    )
    features, truth = [], []
    for number, images in enumerate(torch.split(everything(known), BATCH)):
        generator = generator_for(7, "detector", number)
        torch.randint(5, (len(images),), generator=generator)  # where a larger picture is cut
        seen, is_perturbed = perturb_half(images, _perturbations(), generator)
        features.append(_features(SPECS[name].features, seen - rectifier(seen)))
        truth.append(is_perturbed.numpy())
    machine = make_pipeline(StandardScaler(), _machine(name))
    machine.fit(np.concatenate(features), np.concatenate(truth))
    unseen = everything(pictures(60, seed=3))
    unseen[30:] = (unseen[30:] + _perturbations()[0]).clamp(0, 1)
    removed = unseen - rectifier(unseen)
    expected = machine.decision_function(_features(SPECS[name].features, removed))
    assert_close(detector(removed), expected, SCORE)
    assert np.ptp(expected) > 100 * SCORE.absolute
    calibrated = machine.decision_function(
        _features(SPECS[name].features, everything(clean) - rectifier(everything(clean)))
    )
    rank = math.ceil(91 * Fraction("0.9"))
    assert_close(found.threshold, np.sort(calibrated)[rank - 1], SCORE)
    assert (found.false_positive_rate, found.calibration_pictures) == (RATE, 90)
    if name == "rbf":
        assert detector.spec.support_vectors == len(machine[-1].support_) == len(detector.support)
    else:
        assert detector.spec == SPECS[name]


@torch.no_grad()
def test_what_is_separated_is_counted_on_the_calibration_pictures() -> None:
    rectifier, clean = _rectifier(), pictures(90, seed=2)
    weak = 0.3 * _perturbations()  # so that there is something to count
    detector, found = fit_detector(
        rectifier, pictures(COUNT, seed=1), clean, weak, seed=7, false_positive_rate=RATE
    )
    images = everything(clean)
    seen = (images + weak.repeat(30, 1, 1, 1)).clamp(0, 1)
    quiet, loud = (detector(one - rectifier(one)).double().numpy() for one in (images, seen))
    wins = (loud[:, None] > quiet).mean() + (loud[:, None] == quiet).mean() / 2
    assert_close(found.roc_area, wins, FIGURE)
    assert 0.5 < found.roc_area < 1
    ordered = np.sort(quiet)
    # 0 of 90 is at most 1 %, and 4 of 90 at most 5 %.
    expected = {"0.01": (loud > ordered[-1]).mean(), "0.05": (loud > ordered[-5]).mean()}
    assert found.detection_rates == expected
    assert 0 < expected["0.01"] < expected["0.05"] < 1


@pytest.mark.parametrize("most", [2, 10, 60])
def test_support_vectors_stay_within_their_bound(most: int) -> None:
    # Nothing separates the classes, so that nearly every picture becomes a support vector.
    rng = np.random.default_rng(0)
    standard, truth = rng.normal(0, 1, (200, 6)), rng.random(200) < 0.3
    machine = rbf_machine(standard, truth, most=most, seed=0)
    assert 2 <= len(machine.support_) <= most
    assert min(machine.n_support_) >= 1
    assert machine.gamma == 0.1 / 6
    again = rbf_machine(standard, truth, most=most, seed=0)
    assert np.array_equal(machine.support_vectors_, again.support_vectors_)
    other = rbf_machine(standard, truth, most=most, seed=1)
    assert not np.array_equal(machine.support_vectors_, other.support_vectors_)


@torch.no_grad()
def test_a_bounded_detector_holds_as_many_support_vectors_as_its_spec_says() -> None:
    spec = SPECS["rbf"].model_copy(update={"support_vectors": 12})
    rectifier, clean, weak = _rectifier(), pictures(90, seed=2), 0.1 * _perturbations()
    detector, found = fit_detector(
        rectifier,
        pictures(COUNT, seed=1),
        clean,
        weak,
        seed=7,
        false_positive_rate=RATE,
        spec=spec,
    )
    assert len(detector.support) == len(detector.weight) == detector.spec.support_vectors <= 12
    assert found.roc_area > 0.5
    flagged = scores(rectifier, detector, clean) > detector.threshold
    assert int(flagged.sum()) <= 90 * RATE


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 37, 53), (3, 70, 65)])
@torch.no_grad()
def test_pictures_of_any_size_are_told_apart(shape: tuple[int, int, int], kernel: Kernel) -> None:
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randint(100, 156, (120, *shape), generator=generator).to(torch.uint8)
    known = ArrayPictures(pixels, torch.zeros(120, dtype=torch.int64), ("only",))
    perturbations = 0.1 * torch.randn(2, *shape, generator=generator).sign()
    parts = Subset(known, torch.arange(80)), Subset(known, torch.arange(80, 120))
    spec = detector_spec(*shape[1:], kernel=kernel)
    half = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    _, found = fit_detector(
        half, *parts, perturbations, seed=0, false_positive_rate=RATE, spec=spec
    )
    assert found.roc_area > 0.95
    assert found.detection_rates["0.05"] > 0.8


@torch.no_grad()
def test_the_threshold_is_honoured_on_the_calibration_pictures() -> None:
    rectifier, clean = _rectifier(), pictures(90, seed=2)
    perturbed = everything(clean) + _perturbations()[0]
    shares = []
    for rate in (0.02, 0.1, 0.3):
        detector, found = fit_detector(
            rectifier,
            pictures(COUNT, seed=1),
            clean,
            _perturbations(),
            seed=7,
            false_positive_rate=rate,
        )
        flagged = scores(rectifier, detector, clean) > detector.threshold
        shares.append(float(flagged.double().mean()))
        # Without ties all pictures above the rank are flagged: (n + 1) * rate - 1, rounded up.
        assert int(flagged.sum()) == 90 - math.ceil(91 * (1 - Fraction(str(rate))))
        assert found.threshold == float(detector.threshold)
    assert all(share <= rate for share, rate in zip(shares, (0.02, 0.1, 0.3), strict=True))
    caught = detector(perturbed - rectifier(perturbed)) > detector.threshold
    assert float(caught.double().mean()) > 0.9


def test_the_fit_repeats_under_its_seed() -> None:
    def fitted(seed: int) -> dict[str, Tensor]:
        detector, _ = fit_detector(
            _rectifier(),
            pictures(60, seed=1),
            pictures(30, seed=2),
            _perturbations(),
            seed=seed,
            false_positive_rate=RATE,
        )
        return detector.state_dict()

    first, again, other = fitted(0), fitted(0), fitted(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["weight"], other["weight"])


@pytest.mark.parametrize(
    ("count", "rate", "rank"),
    [
        (99, 0.01, 99),  # 100 * 0.99
        (100, 0.01, 100),  # 99.99
        (199, 0.01, 198),  # 200 * 0.99
        (999, 0.01, 990),
        (19, 0.05, 19),
        (39, 0.05, 38),
        (9, 0.1, 9),
        (18, 0.1, 18),  # 17.1
        (19, 0.1, 18),
    ],
)
def test_the_threshold_is_the_score_of_that_rank(count: int, rate: float, rank: int) -> None:
    assert conformal_rank(count, rate) == rank
    shuffled = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert conformal_threshold(shuffled, rate) == rank


@pytest.mark.parametrize(("rate", "fewest"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.03, 33)])
def test_too_few_pictures_for_a_rate_are_refused(rate: float, fewest: int) -> None:
    assert conformal_threshold(np.arange(float(fewest)), rate) == fewest - 1
    with pytest.raises(DataError, match=f"{fewest - 1} clean .* at least {fewest} are needed"):
        conformal_threshold(np.arange(float(fewest - 1)), rate)


def test_a_new_picture_is_flagged_at_the_stated_rate() -> None:
    # Of 49 uniform scores the 45th is the threshold; a new one exceeds it with chance 5/50.
    generator = np.random.default_rng(0)
    rates = [1 - conformal_threshold(generator.random(49), 0.1) for _ in range(4000)]
    assert_close(np.mean(rates), 0.1, CONFORMAL)


def test_tied_scores_are_not_flagged_beyond_the_rate() -> None:
    ties = np.repeat([0.0, 1.0], [5, 94])
    assert np.count_nonzero(ties > conformal_threshold(ties, 0.05)) == 0
