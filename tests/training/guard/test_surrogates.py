"""Surrogates of a guard: the formulas in NumPy, their limits, and their gradients."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_guard.nn.guarded import GuardedClassifier
from tests.tolerances import SLOPE, SURROGATE, assert_close
from tests.training.small import Mirror
from training.attacks.norms import perturb
from training.datasets import Pictures
from training.guard.folder import load_bank
from training.guard.surrogates import (
    ALL_SURROGATES,
    GATE_WIDTH,
    SURROGATES,
    WIDE_GATE_WIDTH,
    expected_guard,
    in_precision,
    soft_gate,
)

Array = NDArray[np.float64]


@pytest.fixture
def images(test_set: Pictures, guard_folder: Path) -> Tensor:
    """Twelve clean pictures and twelve perturbed ones, kept clear of black and white."""
    clean = test_set.batch(torch.arange(24))
    clean[12:] += load_bank(guard_folder).unseen[0]
    return clean.clamp(0.05, 0.95)


def _probabilities(logits: Tensor) -> Array:
    powers = np.exp(logits.double().numpy())
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@torch.no_grad()
def test_through_the_rectifier(guarded: GuardedClassifier, images: Tensor) -> None:
    found = SURROGATES["rectifier"](guarded)(images)
    assert torch.equal(found, guarded.target(guarded.rectifier(images)))
    assert not torch.equal(found, guarded.target(images))


@torch.no_grad()
def test_both_branches_mean_their_probabilities(guarded: GuardedClassifier, images: Tensor) -> None:
    for value in guarded.target.classifier[-1].parameters():
        value.mul_(0.1)  # less sure, so that the mean is neither of the two branches
    guarded.rectifier = Mirror()
    found = SURROGATES["both branches"](guarded)(images)
    bare = _probabilities(guarded.target(images))
    rectified = _probabilities(guarded.target(guarded.rectifier(images)))
    assert np.abs(bare - rectified).max() > 0.02
    assert_close(_probabilities(found), (bare + rectified) / 2, SURROGATE)


@torch.no_grad()
def test_the_soft_gate_blends_pictures_by_a_sigmoid(
    guarded: GuardedClassifier, images: Tensor
) -> None:
    rectified = guarded.rectifier(images)
    gap = (guarded.detector(images - rectified) - guarded.detector.threshold).double().numpy()
    share = 1 / (1 + np.exp(-gap))
    assert share.min() < 0.45
    assert share.max() > 0.55
    share = share[:, None, None, None]
    blended = share * rectified.double().numpy() + (1 - share) * images.double().numpy()
    exact = copy.deepcopy(guarded.target).double()(torch.from_numpy(blended))
    assert_close(soft_gate(guarded)(images), exact, SURROGATE)


@torch.no_grad()
@pytest.mark.parametrize("far", [-1e6, 1e6])
def test_far_from_the_threshold_the_soft_gate_is_the_hard_one(
    guarded: GuardedClassifier, images: Tensor, far: float
) -> None:
    guarded.detector.threshold.fill_(far)
    chosen = images if far > 0 else guarded.rectifier(images)
    assert torch.equal(soft_gate(guarded)(images), guarded.target(chosen))
    assert torch.equal(guarded(images).logits, guarded.target(chosen))


@pytest.mark.parametrize("name", list(ALL_SURROGATES))
def test_the_gradient_reaches_the_perturbation(
    guarded: GuardedClassifier, images: Tensor, name: str
) -> None:
    surrogate = ALL_SURROGATES[name](guarded.double())
    direction = torch.randn(
        images.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )

    def loss(perturbation: Tensor) -> Tensor:
        return surrogate(perturb(images[:4].double(), perturbation)).log_softmax(1)[:, 0].mean()

    leaf = torch.zeros(images.shape[1:], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    step = 1e-7 * direction
    with torch.no_grad():
        slope = float(loss(step) - loss(-step)) / 2e-7
    assert abs(slope) > 1e-3
    assert_close((gradient * direction).sum(), slope, SLOPE)


@pytest.mark.parametrize("name", ["soft gate", "expected guard", "wide gate"])
def test_a_gates_gradient_sees_the_detector(
    guarded: GuardedClassifier, images: Tensor, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    leaf = torch.zeros(images.shape[1:], requires_grad=True)

    def gradient() -> Tensor:
        seen = images + leaf
        value = ALL_SURROGATES[name](guarded)(seen).log_softmax(dim=1)[:, 0].mean()
        return torch.autograd.grad(value, leaf)[0]

    with_detector = gradient()
    forward = guarded.detector.forward
    monkeypatch.setattr(guarded.detector, "forward", lambda removed: forward(removed.detach()))
    assert float((gradient() - with_detector).norm()) > 1e-3 * float(with_detector.norm())


@torch.no_grad()
@pytest.mark.parametrize("width", [GATE_WIDTH, WIDE_GATE_WIDTH])
def test_the_expected_guard_weighs_probabilities_by_a_sigmoid(
    guarded: GuardedClassifier, images: Tensor, width: float
) -> None:
    for value in guarded.target.classifier[-1].parameters():
        value.mul_(0.1)  # less sure, so that the mean is neither of the two branches
    guarded.rectifier = Mirror()
    rectified = guarded.rectifier(images)
    gap = (guarded.detector(images - rectified) - guarded.detector.threshold).double().numpy()
    share = (1 / (1 + np.exp(-gap / width)))[:, None]
    exact = copy.deepcopy(guarded.target).double()
    branches = [_probabilities(exact(one.double())) for one in (rectified, images)]
    oracle = np.log(share * branches[0] + (1 - share) * branches[1])
    assert_close(expected_guard(guarded, width=width)(images), oracle, SURROGATE)


@pytest.mark.parametrize("far", [-math.inf, math.inf])
@pytest.mark.parametrize("name", ["expected guard", "wide gate", "soft gate"])
def test_a_gate_that_is_decided_is_the_guard_and_has_a_gradient(
    guarded: GuardedClassifier, images: Tensor, name: str, far: float
) -> None:
    guarded.detector.threshold.fill_(far)
    leaf = torch.zeros(images.shape[1:], requires_grad=True)
    found = ALL_SURROGATES[name](guarded)(images + leaf).log_softmax(dim=1)
    with torch.no_grad():
        assert_close(found.detach(), guarded(images).logits.log_softmax(dim=1), SURROGATE)
    (gradient,) = torch.autograd.grad(found[:, 0].mean(), leaf)
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.norm()) > 0


@pytest.mark.parametrize("name", list(ALL_SURROGATES))
def test_mixed_precision_rounds_rectifier_and_target_and_not_the_detector(
    guarded: GuardedClassifier, images: Tensor, name: str
) -> None:
    kinds: dict[str, torch.dtype] = {}
    first = guarded.target.classifier[0]
    first.register_forward_hook(lambda *given: kinds.update(target=given[2].dtype))
    features = guarded.detector.features
    features.register_forward_hook(lambda *given: kinds.update(detector=given[2].dtype))
    plain = ALL_SURROGATES[name](guarded)
    found = in_precision(plain, "bfloat16")(images)
    assert kinds.pop("target") == torch.bfloat16
    assert found.dtype == torch.float32
    assert set(kinds.values()) <= {torch.float32}
    assert bool(kinds) == (name in {"soft gate", "expected guard", "wide gate"})
    assert in_precision(plain, "float32") is plain
