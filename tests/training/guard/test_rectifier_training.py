"""One step: which gradients there are, what is moved and how far, and a loss that is not finite."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from prn_guard.errors import InvalidArgumentError
from prn_guard.nn.rectifier import RectifierSpec, build_rectifier
from prn_guard.nn.target import state_digest
from tests.tolerances import UNIT_VECTOR, WEIGHT_STEPS, assert_close
from tests.training.small import SHAPE, everything, pictures, trained_target
from training.guard.aim import Aim
from training.guard.joint_detector import RATE_FACTOR, JointDetector
from training.guard.recipe import Recipe
from training.guard.rectifier_batches import RectifierBatch, aimed_at
from training.guard.rectifier_training import RectifierTraining
from training.processes import Processes

RECIPE = Recipe(epochs=1, learning_rate=0.01, batch_size=8, pixels=3.0, detection=1.0)
SHARE = 0.5


def _training(recipe: Recipe = RECIPE) -> RectifierTraining:
    generator = torch.Generator().manual_seed(2)
    rectifier = build_rectifier(RectifierSpec(channels=1, width=6, blocks=1), generator=generator)
    with torch.no_grad():
        rectifier.exit.weight.normal_(std=0.1, generator=generator)
    joint = JointDetector(*SHAPE[1:]) if recipe.detection else None
    return RectifierTraining(rectifier, trained_target(), recipe=recipe, joint=joint)


def _clean() -> RectifierBatch:
    images = everything(pictures(8, seed=5))
    none = torch.zeros(8, dtype=torch.bool)
    return RectifierBatch(clean=images, seen=images, is_perturbed=none, is_aimed=none)


def _held(seed: int = 1) -> Tensor:
    return 0.1 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_one_step_is_adams_and_the_detector_goes_faster() -> None:
    """Adam's first step has the length of the rate in every weight that has a gradient."""
    training = _training()
    before = {name: value.detach().clone() for name, value in training.trained.named_parameters()}
    target = state_digest(training.target)
    training.step(aimed_at(_clean(), _held()[None], SHARE), rate=1e-3)
    for name, value in training.trained.named_parameters():
        largest = float((value.detach() - before[name]).abs().max())
        rate = 1e-3 * (RATE_FACTOR if name.startswith("1.") else 1.0)
        assert_close(largest, rate, WEIGHT_STEPS)
    assert state_digest(training.target) == target
    assert [group["lr"] for group in training.optimizer.param_groups] == [1e-3, 1e-3 * RATE_FACTOR]


def test_rectifier_and_detector_are_clipped_as_one_and_the_held_one_is_not() -> None:
    free, clipped = _training(), _training(replace(RECIPE, largest_gradient=1e-2))
    gradients = []
    for training in (free, clipped):
        held = _held().requires_grad_()
        batch = aimed_at(_clean(), held[None], SHARE)
        training.step(batch, rate=0.0, aim=Aim(perturbation=held, evades=False))
        whole = [weight.grad.flatten() for weight in training.trained.parameters()]
        gradients.append((torch.cat(whole), held.grad))
    (all_free, held_free), (all_clipped, held_clipped) = gradients
    assert float(all_free.norm()) > 0.1
    assert_close(all_clipped, 1e-2 * all_free / all_free.norm(), UNIT_VECTOR)
    assert torch.equal(held_free, held_clipped)


def test_gradients_do_not_add_up_over_steps() -> None:
    training, found = _training(), []
    training.step(_clean(), rate=0.0)
    for _ in range(2):
        training.joint.seen.zero_()
        training.step(_clean(), rate=0.0)
        found.append(training.joint.free.grad.clone())
    assert torch.equal(*found)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_moves_no_weight(value: float) -> None:
    training = _training()
    training.step(_clean(), rate=1e-3)
    before = {name: weight.detach().clone() for name, weight in training.trained.named_parameters()}
    batch = _clean()
    seen = batch.seen.clone()
    seen[3, 0, 5, 5] = value
    assert not training.step(replace(batch, seen=seen), rate=1e-3) < float("inf")
    for name, weight in training.trained.named_parameters():
        assert torch.equal(weight, before[name]), name


def test_mini_batches_that_cannot_be_shared_out_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="Mini-batches of 8 cannot be shared out"):
        RectifierTraining(nn.Identity(), trained_target(), recipe=RECIPE, together=Processes(0, 3))
