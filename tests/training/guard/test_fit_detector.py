"""The detector against scikit-learn's own pipeline, and the threshold against its promise."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import Tensor, nn

from prn_guard.errors import DataError
from prn_guard.nn.rectifier import RectifierSpec, build_rectifier
from tests.reference import dct
from tests.tolerances import CONFORMAL, SCORE, assert_close
from tests.training.small import SHAPE, everything, pictures
from training.guard.fit_detector import (
    BATCH,
    conformal_rank,
    conformal_threshold,
    fit_detector,
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


@torch.no_grad()
def test_the_scores_are_those_of_scikit_learns_pipeline() -> None:
    rectifier, known, clean = _rectifier(), pictures(COUNT, seed=1), pictures(90, seed=2)
    detector, found = fit_detector(
        rectifier, known, clean, _perturbations(), seed=7, false_positive_rate=RATE
    )
    features, truth = [], []
    for number, images in enumerate(torch.split(everything(known), BATCH)):
        generator = generator_for(7, "detector", number)
        torch.randint(5, (len(images),), generator=generator)  # where a larger picture is cut
        seen, is_perturbed = perturb_half(images, _perturbations(), generator)
        features.append(dct.features(seen - rectifier(seen)))
        truth.append(is_perturbed.numpy())
    machine = make_pipeline(
        StandardScaler(), LinearSVC(C=0.01, dual=False, random_state=0, max_iter=5000)
    )
    machine.fit(np.concatenate(features), np.concatenate(truth))
    unseen = everything(pictures(60, seed=3))
    unseen[30:] = (unseen[30:] + _perturbations()[0]).clamp(0, 1)
    removed = unseen - rectifier(unseen)
    expected = machine.decision_function(dct.features(removed))
    assert_close(detector(removed), expected, SCORE)
    assert np.ptp(expected) > 100 * SCORE.absolute
    calibrated = machine.decision_function(
        dct.features(everything(clean) - rectifier(everything(clean)))
    )
    rank = math.ceil(91 * Fraction("0.9"))
    assert_close(found.threshold, np.sort(calibrated)[rank - 1], SCORE)
    assert (found.false_positive_rate, found.calibration_pictures) == (RATE, 90)


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
