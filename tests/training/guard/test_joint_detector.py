"""The joint detector against float64, its running means, and what no weight below zero promises."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from prn_guard.nn.detector import DetectorSpec, build_detector
from tests.reference import dct, joint_detector
from tests.tolerances import JOINT_SCORE, LOSS, RUNNING_MEAN, SLOPE, assert_close
from training.guard.joint_detector import JointDetector, detection_loss, joint_spec
from training.processes import Processes

HEIGHT, WIDTH = 12, 10
BLOCK = 2


def _differences(count: int, *, seed: int, size: float = 0.05) -> Tensor:
    """Smooth noise of very different strengths, in three channels."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, HEIGHT, WIDTH, generator=generator)
    return size * noise * torch.rand(count, 1, 1, 1, generator=generator).exp()


def _trained(*, seed: int = 0) -> JointDetector:
    """One that has seen three mini-batches, with weights from nearly 0 to 3."""
    joint, generator = JointDetector(HEIGHT, WIDTH), torch.Generator().manual_seed(seed)
    for number in range(3):
        joint.follow(joint.features(_differences(20, seed=number)), Processes())
    with torch.no_grad():
        joint.free.copy_(3 * torch.randn(joint.free.shape, generator=generator))
        joint.bias.fill_(-0.7)
    return joint


@torch.no_grad()
def test_scores_are_those_of_float64() -> None:
    joint, differences = _trained(), _differences(9, seed=7)
    features = dct.energy_features(differences, BLOCK)
    assert joint.free.shape == (BLOCK**2,)
    found = joint(differences)
    known = (joint.means.numpy(), joint.squares.numpy(), joint.free.numpy())
    assert_close(found, joint_detector.scores(features, *known, -0.7), JOINT_SCORE)
    assert float(found.max() - found.min()) > 10


def test_running_means_follow_each_mini_batch_by_a_twentieth() -> None:
    joint = JointDetector(HEIGHT, WIDTH)
    seen = []
    for number, size in enumerate((0.05, 0.002, 0.3)):
        differences = _differences(16, seed=number, size=size)
        joint.follow(joint.features(differences), Processes())
        seen.append(dct.energy_features(differences, BLOCK))
        means, squares = joint_detector.running_means(seen)
        assert_close(joint.means, means, RUNNING_MEAN)
        assert_close(joint.squares, squares, RUNNING_MEAN)
    assert not joint.means.requires_grad


@pytest.mark.parametrize("start", [0.0, 4.0])
@pytest.mark.parametrize("rate", [0.1, 0.01])
def test_the_threshold_goes_to_where_the_wanted_share_of_clean_pictures_is_flagged(
    start: float, rate: float
) -> None:
    joint, generator = JointDetector(HEIGHT, WIDTH, false_positive_rate=rate), torch.Generator()
    generator.manual_seed(4)
    joint.threshold.fill_(start)
    for _ in range(600):
        scores = torch.randn(64, generator=generator)
        is_perturbed = torch.rand(64, generator=generator) < 0.5
        joint.watch(scores + 50 * is_perturbed, is_perturbed, Processes())
    assert abs(float(joint.threshold) - norm.ppf(1 - rate)) < 0.4


def test_the_threshold_stands_where_no_picture_is_clean() -> None:
    joint = JointDetector(HEIGHT, WIDTH)
    joint.watch(torch.ones(5), torch.ones(5, dtype=torch.bool), Processes())
    assert joint.threshold == 0


def test_a_score_moves_no_mean_and_knows_no_neighbours() -> None:
    joint, differences = _trained(), _differences(9, seed=7)
    before = {name: value.clone() for name, value in joint.state_dict().items()}
    with torch.no_grad():
        together, alone = joint.train()(differences), joint(differences[4:5])
    assert_close(alone, together[4:5], JOINT_SCORE)
    for name, value in joint.state_dict().items():
        assert torch.equal(value, before[name]), name


@torch.no_grad()
def test_its_copy_scores_the_same_and_is_apart_from_it() -> None:
    joint, differences = _trained(), _differences(9, seed=7)
    copy = joint.detector()
    assert copy.spec == joint_spec(HEIGHT, WIDTH) == DetectorSpec(features="energy", bands=BLOCK)
    expected = joint(differences)
    assert_close(copy(differences), expected, JOINT_SCORE)
    assert not list(copy.parameters())
    joint.free.add_(1)
    joint.means.add_(1)
    joint.bias.add_(1)
    assert_close(copy(differences), expected, JOINT_SCORE)


def test_a_feature_that_never_varies_is_not_magnified_without_bound() -> None:
    joint = JointDetector(HEIGHT, WIDTH)
    joint.follow(joint.features(torch.zeros(8, 3, HEIGHT, WIDTH)), Processes())
    with torch.no_grad():
        assert bool(joint(torch.zeros(2, 3, HEIGHT, WIDTH)).abs().max() < 0.1)
    assert float(joint.detector().scale.min()) >= 1e-3 * (1 - 1e-6)


def test_no_weight_falls_below_zero_however_it_is_trained() -> None:
    joint = _trained()
    optimizer = torch.optim.Adam(joint.parameters(), lr=0.5)
    for number in range(60):
        differences = _differences(8, seed=number)
        optimizer.zero_grad()
        # The wrong way round: the more is removed, the lower the score ought to be.
        joint(3 * differences).mean().backward()
        optimizer.step()
    weight = joint.detector().weight
    assert float(weight.min()) >= 0
    assert float(weight.max()) < 0.01


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_more_removed_never_lowers_a_score(seed: int) -> None:
    joint, differences = _trained(seed=seed), _differences(12, seed=20 + seed, size=0.01)
    scores = torch.stack([joint(share * differences) for share in (0.0, 0.5, 1.0, 1.5, 4.0)])
    assert float(scores.diff(dim=0).min()) > 0


@torch.no_grad()
def test_a_perturbation_whose_gray_cancels_is_seen_by_its_energy_alone() -> None:
    pattern = torch.randn(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 0.1
    colours = torch.tensor([0.587, -0.299, 0.0])[:, None, None]
    difference = (colours * pattern)[None]
    nothing = torch.zeros_like(difference)
    plane = build_detector(DetectorSpec(), HEIGHT, WIDTH).features
    energy = build_detector(joint_spec(HEIGHT, WIDTH), HEIGHT, WIDTH).features
    assert float((plane(difference) - plane(nothing)).abs().max()) < 1e-4
    found = (energy(difference) - energy(nothing))[0]
    assert float(found.min()) > 0.5
    assert float(found.median()) > 2


def test_the_detection_loss_is_the_references() -> None:
    scores = torch.tensor([-40.0, -1.0, 0.0, 0.3, 1.0, 5.0, 40.0])
    for truth in (scores > 0, scores < 0.5, torch.tensor([True, False] * 3 + [True])):
        expected = joint_detector.detection_loss(scores.numpy(), truth.numpy())
        assert_close(detection_loss(scores, truth), expected, LOSS)


def test_gradients_reach_the_difference_through_the_features() -> None:
    joint = _trained().double()
    differences = _differences(2, seed=9).double().requires_grad_()
    direction = _differences(2, seed=10).double()
    joint(differences).sum().backward()
    assert differences.grad is not None
    with torch.no_grad():
        ahead, behind = (joint(differences + step * direction).sum() for step in (1e-5, -1e-5))
    slope = float((differences.grad * direction).sum())
    assert_close(slope, float(ahead - behind) / 2e-5, SLOPE)
    assert np.abs(slope) > 0.1
