"""The attacker's surrogates: the formulas in NumPy, their limits, and their gradients."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from prn_guard.nn.guarded import GuardedClassifier
from tests.tolerances import BALL, SLOPE, SURROGATE, assert_close
from training.attacks.norms import norm_of, perturb
from training.datasets import Pictures
from training.evaluation import adaptive
from training.evaluation.adaptive import (
    SURROGATES,
    InformedAttacker,
    adaptive_perturbation,
    scaled_epsilon,
    soft_gate,
)
from training.evaluation.outcomes import answers
from training.guard.folder import load_bank, read_record

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
        value.mul_(0.1)  # less sure, so that the two branches differ
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


@pytest.mark.parametrize("name", list(SURROGATES))
def test_the_gradient_reaches_the_perturbation(
    guarded: GuardedClassifier, images: Tensor, name: str
) -> None:
    surrogate = SURROGATES[name](guarded.double())
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


def test_the_soft_gates_gradient_sees_the_detector(
    guarded: GuardedClassifier, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaf = torch.zeros(images.shape[1:], requires_grad=True)

    def gradient() -> Tensor:
        value = soft_gate(guarded)(images + leaf).log_softmax(dim=1)[:, 0].mean()
        return torch.autograd.grad(value, leaf)[0]

    with_detector = gradient()
    forward = guarded.detector.forward
    monkeypatch.setattr(guarded.detector, "forward", lambda removed: forward(removed.detach()))
    assert float((gradient() - with_detector).norm()) > 0.01 * float(with_detector.norm())


@pytest.mark.parametrize("name", list(SURROGATES))
@pytest.mark.usefixtures("_short_attacks")
def test_crafting_through_a_surrogate(
    guarded: GuardedClassifier, test_set: Pictures, name: str
) -> None:
    def craft(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return adaptive_perturbation(
            guarded, name, test_set, norm="linf", epsilon=0.15, generator=generator
        )

    perturbation = craft(0)
    assert torch.equal(perturbation, craft(0))
    assert not torch.equal(perturbation, craft(1))
    assert float(norm_of(perturbation, "linf")) <= 0.15 + BALL.absolute
    noise = 0.15 * torch.sign(torch.randn(test_set.shape, generator=torch.Generator()))
    attacked, noisy = answers(guarded, test_set, perturbation), answers(guarded, test_set, noise)
    hit = attacked.right(attacked.guarded).mean()
    assert hit < noisy.right(noisy.guarded).mean() - 0.2


def test_an_impossible_ball_is_refused(guarded: GuardedClassifier, test_set: Pictures) -> None:
    with pytest.raises(InvalidArgumentError, match="epsilon"):
        adaptive_perturbation(
            guarded, "rectifier", test_set, norm="linf", epsilon=1.5, generator=torch.Generator()
        )


def test_scaled_bounds_end_where_pictures_do(guard_folder: Path) -> None:
    record = read_record(guard_folder)
    assert scaled_epsilon(record, 2.0) == 0.3
    assert scaled_epsilon(record, 10.0) == 1.0
    round_ball = record.model_copy(update={"norm": "l2", "epsilon": 3.0})
    assert scaled_epsilon(round_ball, 2.0) == 6.0
    assert scaled_epsilon(round_ball, 10.0) == 12.0  # the square root of 1 * 12 * 12


@pytest.mark.parametrize("same", [True, False])
def test_only_attacks_of_the_same_request_are_kept(
    guarded: GuardedClassifier,
    guard_folder: Path,
    test_set: Pictures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    same: bool,
) -> None:
    crafted: list[float] = []

    def craft(*_: object, epsilon: float, **__: object) -> Tensor:
        crafted.append(epsilon)
        return torch.full((1, 12, 12), epsilon)

    monkeypatch.setattr(adaptive, "adaptive_perturbation", craft)

    def attacker(number: int) -> InformedAttacker:
        record, path = read_record(guard_folder), tmp_path / "adaptive.safetensors"
        return InformedAttacker(
            guarded, record, test_set, path=path, request={"number": number}, seed=0
        )

    first = attacker(0)
    first.perturbation("rectifier", 0)
    assert torch.equal(first.perturbation("rectifier", 0), torch.full((1, 12, 12), 0.15))
    first.perturbation("rectifier", 1)
    first.perturbation("rectifier", 0, scale=2.0)
    assert crafted == [0.15, 0.15, 0.3]
    attacker(0 if same else 1).perturbation("rectifier", 1)
    assert crafted == [0.15, 0.15, 0.3, *([] if same else [0.15])]
