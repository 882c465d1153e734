"""Fitting the DCT-SVM detector and calibrating its threshold.

Source: PRN paper, section 4.3: an SVM on `log|DCT2(gray(x - R(x)))|` of clean and perturbed
pictures. Departures: linear, on standardised features; the threshold is the conformal quantile of
the scores of held-out clean pictures, for a stated false-positive rate.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import Tensor, nn

from prn_guard.errors import DataError
from prn_guard.nn.detector import Detector, pool_for
from training.datasets import Pictures, batch_for
from training.guard.rectifier_batches import perturb_half
from training.randomness import generator_for

FALSE_POSITIVE_RATE = 0.01
REGULARISATION = 0.01
"""C of the SVM: features are many and nearly separable, so the margin matters more than the fit."""
BATCH = 256


@dataclass(frozen=True)
class DetectorFit:
    """What fitting found, on pictures that the detector was not fitted to."""

    threshold: float
    false_positive_rate: float
    """The rate that the threshold was calibrated for."""
    calibration_pictures: int


def fit_detector(
    rectifier: nn.Module,
    pictures: Pictures,
    calibration: Pictures,
    perturbations: Tensor,
    *,
    seed: int,
    false_positive_rate: float = FALSE_POSITIVE_RATE,
) -> tuple[Detector, DetectorFit]:
    """Fit a detector on what `rectifier` removes.

    Args:
        rectifier: trained; maps `(B, C, H, W)` in [0, 1] to the same.
        pictures: clean pictures to fit the SVM on, half of them perturbed.
        calibration: other clean pictures, for the threshold.
        perturbations: `(P, C, H, W)`, those of the training.
        seed: of the random choices.
        false_positive_rate: in (0, 1); share of clean pictures that may be flagged.

    Raises:
        DataError: too few calibration pictures for that rate.
    """
    _, height, width = pictures.shape
    detector = Detector(height, width, pool=pool_for(height, width))
    features, is_perturbed = _training_features(
        rectifier, detector, pictures, perturbations, seed=seed
    )
    scaler = StandardScaler().fit(features)
    machine = LinearSVC(C=REGULARISATION, dual=False, random_state=0, max_iter=5000)
    machine.fit(scaler.transform(features), is_perturbed)
    detector.mean.copy_(torch.from_numpy(scaler.mean_))
    detector.scale.copy_(torch.from_numpy(scaler.scale_))
    detector.weight.copy_(torch.from_numpy(machine.coef_[0]))
    detector.bias.fill_(float(machine.intercept_[0]))
    clean_scores = scores(rectifier, detector, calibration)
    threshold = conformal_threshold(clean_scores.double().numpy(), false_positive_rate)
    detector.threshold.fill_(threshold)
    return detector, DetectorFit(float(detector.threshold), false_positive_rate, len(calibration))


def conformal_threshold(clean_scores: np.ndarray, false_positive_rate: float) -> float:
    """The score that a new clean picture exceeds with at most this probability.

    The `ceil((n + 1) * (1 - rate))`-th smallest of n clean scores: exact for exchangeable pictures,
    whatever their distribution (split conformal prediction).

    Raises:
        DataError: n is too small for the rate.
    """
    rank = conformal_rank(len(clean_scores), false_positive_rate)
    return float(np.sort(clean_scores)[rank - 1])


def conformal_rank(count: int, false_positive_rate: float) -> int:
    """Which of the sorted scores of `count` clean pictures is the threshold, counted from 1.

    Raises:
        DataError: `count` is too small for the rate.
    """
    rank = math.ceil((count + 1) * (1 - false_positive_rate))
    if rank > count:
        fewest = math.ceil(1 / false_positive_rate) - 1
        raise DataError(
            f"{count} clean pictures are too few to calibrate a false-positive rate of "
            f"{false_positive_rate:g}: at least {fewest} are needed for calibration alone. Give "
            "more training pictures, or ask for a higher rate."
        )
    return rank


@torch.no_grad()
def scores(rectifier: nn.Module, detector: Detector, pictures: Pictures) -> Tensor:
    """Detector scores `(N,)` of clean pictures."""
    found = []
    for positions in torch.split(torch.arange(len(pictures)), batch_for(pictures.shape, BATCH)):
        images = pictures.batch(positions)
        found.append(detector(images - rectifier(images)))
    return torch.cat(found)


@torch.no_grad()
def _training_features(
    rectifier: nn.Module,
    detector: Detector,
    pictures: Pictures,
    perturbations: Tensor,
    *,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Features `(N, F)` and whether each picture is perturbed `(N,)`."""
    features, is_perturbed = [], []
    for number, positions in enumerate(
        torch.split(torch.arange(len(pictures)), batch_for(pictures.shape, BATCH))
    ):
        generator = generator_for(seed, "detector", number)
        images = pictures.batch(positions, crops=generator)
        seen, perturbed = perturb_half(images, perturbations, generator)
        features.append(detector.features(seen - rectifier(seen)))
        is_perturbed.append(perturbed)
    return torch.cat(features).double().numpy(), torch.cat(is_perturbed).numpy()
