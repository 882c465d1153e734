"""Fitting the DCT-SVM detector and calibrating its threshold.

Source: PRN paper, section 4.3: an SVM on `log|DCT2(gray(x - R(x)))|` of clean and perturbed
pictures. Departures: linear by default, or a radial basis function on averages over frequency
bands; standardised features; the threshold is the conformal quantile of the scores of held-out
clean pictures, for a stated false-positive rate. So that the support vectors of the radial basis
function stay within their bound, it is fitted again to half of the pictures where it keeps more.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from torch import Tensor, nn

from prn_guard.errors import DataError
from prn_guard.nn.detector import Detector, DetectorSpec, build_detector, detector_spec
from training.attacks.norms import perturb
from training.datasets import Pictures, batch_for
from training.guard.rectifier_batches import perturb_half
from training.randomness import generator_for

FALSE_POSITIVE_RATE = 0.01
REGULARISATION = 0.01
"""C of the linear SVM: features are many and nearly separable, so the margin matters more than the
fit."""
RBF_REGULARISATION: Final = 1.0
RBF_REACH: Final = 0.1
"""Gamma times the number of features. At 1, scikit-learn's own, what is perturbed more strongly
than the pictures of the fit lies beyond the reach of every support vector and passes as clean. The
value was chosen on Gabor noise and the perturbations for CIFAR-10 that others made: detection of
these by this kernel is no blind figure."""
REPORTED_RATES: Final = (0.01, 0.05)
BATCH = 256


@dataclass(frozen=True)
class DetectorFit:
    """What calibration found, on pictures that the detector was not fitted to."""

    threshold: float
    false_positive_rate: float
    """The rate that the threshold was calibrated for."""
    calibration_pictures: int
    roc_area: float
    """Of the calibration pictures, clean against perturbed. The perturbations are those that the
    detector was fitted to, so that this is no figure for others."""
    detection_rates: dict[str, float]
    """Share of those perturbed pictures above the scores of all but 1 % and 5 % of the clean."""


def fit_detector(
    rectifier: nn.Module,
    pictures: Pictures,
    calibration: Pictures,
    perturbations: Tensor,
    *,
    seed: int,
    false_positive_rate: float = FALSE_POSITIVE_RATE,
    spec: DetectorSpec | None = None,
) -> tuple[Detector, DetectorFit]:
    """Fit a detector on what `rectifier` removes.

    Args:
        rectifier: trained; maps `(B, C, H, W)` in [0, 1] to the same.
        pictures: clean pictures to fit the SVM on, half of them perturbed.
        calibration: other clean pictures, for the threshold.
        perturbations: `(P, C, H, W)`, those of the training.
        seed: of the random choices.
        false_positive_rate: in (0, 1); share of clean pictures that may be flagged.
        spec: kernel, features, most support vectors; None takes the linear one for this size.

    Returns:
        The detector, on the device of `pictures` and with the support vectors that there are in its
        `spec`; and what calibration found.

    Raises:
        DataError: too few calibration pictures for that rate.
    """
    _, height, width = pictures.shape
    spec = spec or detector_spec(height, width)
    detector = build_detector(spec, height, width).to(pictures.device)
    known = _training_features(rectifier, detector, pictures, perturbations, seed=seed)
    spec, buffers = _machine(spec, *known, seed=seed)
    detector = build_detector(spec, height, width).to(pictures.device)
    for name, value in buffers.items():
        getattr(detector, name).copy_(torch.as_tensor(value))
    found = calibrate(
        rectifier, detector, calibration, perturbations, false_positive_rate=false_positive_rate
    )
    return detector, found


def calibrate(
    rectifier: nn.Module,
    detector: Detector,
    calibration: Pictures,
    perturbations: Tensor,
    *,
    false_positive_rate: float,
) -> DetectorFit:
    """Set the threshold of `detector`, and measure what it separates on the same pictures.

    Args:
        rectifier: maps `(B, C, H, W)` in [0, 1] to the same.
        detector: fitted, on the device of the pictures.
        calibration: clean pictures that nothing was fitted to.
        perturbations: `(P, C, H, W)`, taken in turn.
        false_positive_rate: in (0, 1); share of clean pictures that may be flagged.

    Raises:
        DataError: too few pictures for that rate.
    """
    clean = scores(rectifier, detector, calibration).double().cpu().numpy()
    detector.threshold.fill_(conformal_threshold(clean, false_positive_rate))
    perturbed = scores(rectifier, detector, calibration, perturbations).double().cpu().numpy()
    truth = np.repeat([False, True], len(calibration))
    return DetectorFit(
        threshold=float(detector.threshold),
        false_positive_rate=false_positive_rate,
        calibration_pictures=len(calibration),
        roc_area=float(roc_auc_score(truth, np.concatenate([clean, perturbed]))),
        detection_rates={
            f"{rate:g}": float(np.mean(perturbed > np.quantile(clean, 1 - rate, method="higher")))
            for rate in REPORTED_RATES
        },
    )


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
def scores(
    rectifier: nn.Module,
    detector: Detector,
    pictures: Pictures,
    perturbations: Tensor | None = None,
) -> Tensor:
    """Detector scores `(N,)` of pictures, clean or under `perturbations` `(P, C, H, W)` in turn."""
    found = []
    for positions in torch.split(torch.arange(len(pictures)), batch_for(pictures.shape, BATCH)):
        images = pictures.batch(positions)
        if perturbations is not None:
            added = perturbations[positions % len(perturbations)].to(images.device)
            images = perturb(images, added)
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
        seen, perturbed = perturb_half(images, perturbations.to(images.device), generator)
        features.append(detector.features(seen - rectifier(seen)))
        is_perturbed.append(perturbed)
    return torch.cat(features).double().cpu().numpy(), torch.cat(is_perturbed).cpu().numpy()


def _machine(
    spec: DetectorSpec, features: np.ndarray, is_perturbed: np.ndarray, *, seed: int
) -> tuple[DetectorSpec, dict[str, np.ndarray]]:
    """Fit the SVM of `spec` to features `(N, F)`: the spec as fitted, the detector's buffers."""
    scaler = StandardScaler().fit(features)
    standard = scaler.transform(features)
    scaling = {"mean": scaler.mean_, "scale": scaler.scale_}
    if spec.kernel == "linear":
        machine = LinearSVC(C=REGULARISATION, dual=False, random_state=0, max_iter=5000)
        machine.fit(standard, is_perturbed)
        return spec, scaling | {"weight": machine.coef_[0], "bias": machine.intercept_[0]}
    machine = rbf_machine(standard, is_perturbed, most=spec.support_vectors, seed=seed)
    return spec.model_copy(update={"support_vectors": len(machine.support_)}), scaling | {
        "support": machine.support_vectors_,
        "gamma": np.asarray(machine.gamma),
        "weight": machine.dual_coef_[0],
        "bias": machine.intercept_[0],
    }


def rbf_machine(standard: np.ndarray, is_perturbed: np.ndarray, *, most: int, seed: int) -> SVC:
    """Fit an SVM of radial basis functions that keeps at most `most` support vectors.

    Args:
        standard: standardised features `(N, F)`.
        is_perturbed: classes `(N,)` bool.
        most: at least 2. Where more pictures than that become support vectors, half of the pictures
            are left out, at random and of both classes alike, until they do not.
        seed: of that choice.
    """
    order = _alternating(is_perturbed, generator_for(seed, "support vectors"))
    taken = len(order)
    while True:
        chosen = np.sort(order[:taken])
        machine = SVC(C=RBF_REGULARISATION, gamma=RBF_REACH / standard.shape[1])
        machine.fit(standard[chosen], is_perturbed[chosen])
        # It ends: of `most` pictures no more than `most` can become support vectors.
        if len(machine.support_) <= most:
            return machine
        taken = max(most, taken // 2)


def _alternating(is_perturbed: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """A random order of all pictures that takes both classes in turn, while there are both."""
    shuffled = torch.randperm(len(is_perturbed), generator=generator).numpy()
    truth = is_perturbed[shuffled]
    rank = np.where(truth, np.cumsum(truth), np.cumsum(~truth))
    return np.asarray(shuffled[np.argsort(rank, kind="stable")])
