"""The loss of a mini-batch: equation 2, its optional terms, precision, and shares of processes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from prn_guard.nn.rectifier import RectifierSpec, build_rectifier
from tests.reference import dct, joint_detector, losses
from tests.tolerances import BFLOAT16, JOINT_SCORE, LOSS, RUNNING_MEAN, assert_close
from tests.training.small import SHAPE, everything, pictures, trained_target
from training.guard.fit_detector import FALSE_POSITIVE_RATE
from training.guard.joint_detector import THRESHOLD_STEP, JointDetector
from training.guard.recipe import Precision, Recipe
from training.guard.rectifier_batches import RectifierBatch
from training.guard.rectifier_loss import rectifier_loss
from training.processes import Processes

PLAIN = Recipe(epochs=1, learning_rate=0.01)
COUNT = 24
ALONE = Processes()


def _rectifier() -> torch.nn.Module:
    """One that changes pictures: the last layer of a new one is zero."""
    generator = torch.Generator().manual_seed(2)
    rectifier = build_rectifier(RectifierSpec(channels=1, width=6, blocks=1), generator=generator)
    with torch.no_grad():
        rectifier.exit.weight.add_(
            0.3 * torch.randn(rectifier.exit.weight.shape, generator=generator)
        )
    return rectifier


def _batch() -> RectifierBatch:
    clean = everything(pictures(COUNT, seed=5))
    generator = torch.Generator().manual_seed(1)
    is_perturbed = torch.rand(COUNT, generator=generator) < 0.5
    added = 0.2 * torch.randn(SHAPE, generator=generator).sign() * is_perturbed[:, None, None, None]
    return RectifierBatch(
        clean=clean,
        seen=(clean + added).clamp(0, 1),
        is_perturbed=is_perturbed,
        is_aimed=torch.zeros_like(is_perturbed),
    )


@pytest.mark.parametrize(
    ("divergence", "pixels"), [(0.0, 0.0), (0.7, 0.0), (0.0, 50.0), (0.7, 50.0)]
)
def test_the_loss_is_the_references(divergence: float, pixels: float) -> None:
    batch, rectifier, target = _batch(), _rectifier(), trained_target()
    recipe = replace(PLAIN, clean_divergence=divergence, pixels=pixels)
    with torch.no_grad():
        rectified = rectifier(batch.seen)
        clean, logits = target(batch.clean).double().numpy(), target(rectified).double().numpy()
        loss = rectifier_loss(rectifier, target, batch, recipe=recipe)
    expected = losses.cross_entropy(logits, clean.argmax(axis=1)).mean()
    wanted, given = log_softmax(clean, axis=1), log_softmax(logits, axis=1)
    expected += divergence * (np.exp(wanted) * (wanted - given)).sum(axis=1).mean()
    changes = (rectified - batch.clean).double().square().mean(dim=(1, 2, 3))
    expected += pixels * float(changes.mean())
    assert_close(loss.total, expected, LOSS)
    assert torch.equal(loss.labels, torch.as_tensor(clean.argmax(axis=1)))
    assert_close(loss.logits, logits, LOSS)
    assert loss.scores is None
    assert float(changes.max()) > 1e-3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradients_reach_the_weights_and_what_is_seen_but_not_the_target(
    precision: Precision,
) -> None:
    batch, rectifier, target = _batch(), _rectifier(), trained_target()
    seen = batch.seen.clone().requires_grad_()
    recipe = replace(PLAIN, precision=precision, pixels=1.0, clean_divergence=1.0)
    loss = rectifier_loss(rectifier, target, replace(batch, seen=seen), recipe=recipe).total
    assert loss.dtype == torch.float32
    loss.backward()
    assert seen.grad is not None
    assert bool(seen.grad.any())
    assert all(weight.grad is not None for weight in rectifier.parameters())
    assert all(weight.grad is None for weight in target.parameters())


def test_bfloat16_changes_the_loss_by_its_rounding_alone() -> None:
    found = [
        rectifier_loss(
            _rectifier(), trained_target(), _batch(), recipe=replace(PLAIN, precision=precision)
        ).total.detach()
        for precision in ("float32", "bfloat16")
    ]
    assert found[0] != found[1]
    assert_close(found[1], found[0], BFLOAT16)


def test_the_mean_over_the_parts_is_the_loss_of_the_whole() -> None:
    batch, rectifier, target = _batch(), _rectifier(), trained_target()
    recipe = replace(PLAIN, clean_divergence=0.7, pixels=50.0)
    parts = [batch.part(Processes(rank, 2)) for rank in (0, 1)]
    with torch.no_grad():
        whole, *halves = (
            rectifier_loss(rectifier, target, one, recipe=recipe).total for one in (batch, *parts)
        )
    assert_close(sum(halves) / 2, whole, LOSS)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_detectors_loss_is_of_what_is_removed_after_its_means_followed(
    precision: Precision,
) -> None:
    batch, rectifier, target = _batch(), _rectifier(), trained_target()
    recipe = replace(PLAIN, detection=3.0, precision=precision)
    joint = JointDetector(*SHAPE[1:])
    other = 0.3 * torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(3))
    joint.follow(joint.features(other), ALONE)
    expected_means = [joint.means.clone(), joint.squares.clone()]
    with torch.no_grad():
        bare = rectifier_loss(rectifier, target, batch, recipe=recipe).total
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            rectified = rectifier(batch.seen).float()
        loss = rectifier_loss(rectifier, target, batch, recipe=recipe, joint=joint)
    features = dct.energy_features(batch.seen - rectified, 2)
    means, squares = (
        0.95 * old.double().numpy() + 0.05 * new
        for old, new in zip(
            expected_means, (features.mean(axis=0), (features**2).mean(axis=0)), strict=True
        )
    )
    assert_close(joint.means, means, RUNNING_MEAN)
    assert_close(joint.squares, squares, RUNNING_MEAN)
    scores = joint_detector.scores(features, means, squares, joint.free.detach().numpy(), 0.0)
    expected = joint_detector.detection_loss(scores, batch.is_perturbed.numpy())
    assert_close(loss.total - bare, 3.0 * expected, JOINT_SCORE)
    assert_close(loss.scores, scores, JOINT_SCORE)
    flagged = float((scores[~batch.is_perturbed.numpy()] > 0).mean())
    assert_close(joint.threshold, THRESHOLD_STEP * (flagged - FALSE_POSITIVE_RATE), LOSS)


def test_the_detectors_loss_teaches_detector_rectifier_and_what_is_seen() -> None:
    batch, rectifier, joint = _batch(), _rectifier(), JointDetector(*SHAPE[1:])
    seen = batch.seen.clone().requires_grad_()
    grads = []
    for detection in (0.0, 1.0):
        recipe = replace(PLAIN, detection=detection)
        loss = rectifier_loss(
            rectifier, trained_target(), replace(batch, seen=seen), recipe=recipe, joint=joint
        ).total
        leaves = (joint.free, rectifier.exit.weight, seen)
        grads.append(torch.autograd.grad(loss, leaves))
    assert not grads[0][0].any()
    for without, with_detector in zip(*grads, strict=True):
        assert float((with_detector - without).abs().max()) > 1e-6
