"""What held perturbations are after, composed by hand, and mini-batches in which none is held."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prn_guard.nn.rectifier import RectifierSpec, build_rectifier
from prn_guard.nn.target import Target
from tests.tolerances import DIFFERENCE_QUOTIENT, assert_close
from tests.training.small import SHAPE, everything, pictures, trained_target
from training.attacks.losses import LOSS_CLIP
from training.guard.aim import Aim
from training.guard.joint_detector import JointDetector
from training.guard.recipe import Recipe
from training.guard.rectifier_batches import RectifierBatch, aimed_at
from training.guard.rectifier_loss import rectifier_loss
from training.guard.rectifier_training import RectifierTraining

RECIPE = Recipe(epochs=1, learning_rate=0.01, batch_size=8, pixels=3.0, detection=1.0)
SHARE = 0.5


def _training(recipe: Recipe = RECIPE, *, sharpness: float = 1.0) -> RectifierTraining:
    generator = torch.Generator().manual_seed(2)
    rectifier = build_rectifier(RectifierSpec(channels=1, width=6, blocks=1), generator=generator)
    with torch.no_grad():
        rectifier.exit.weight.normal_(std=0.1, generator=generator)
    joint = JointDetector(*SHAPE[1:]) if recipe.detection else None
    target = trained_target()
    sharp = Target(_Sharper(target, sharpness), target.spec)
    return RectifierTraining(rectifier, sharp, recipe=recipe, joint=joint)


class _Sharper(nn.Module):
    """Logits many times as large; and pictures flattened so that none cannot be taken."""

    def __init__(self, target: Target, sharpness: float) -> None:
        super().__init__()
        self.classifier, self.sharpness = target.classifier, sharpness

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.view(inputs.shape[0], -1)
        logits: Tensor = self.classifier(flat.view(inputs.shape))
        return self.sharpness * logits


def _clean() -> RectifierBatch:
    images = everything(pictures(8, seed=5))
    none = torch.zeros(8, dtype=torch.bool)
    return RectifierBatch(clean=images, seen=images, is_perturbed=none, is_aimed=none)


def _held() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (0.1 * torch.randn(SHAPE, generator=generator)).requires_grad_()


def _after(training: RectifierTraining, held: Tensor, *, evades: bool) -> Tensor:
    """The sum over the aimed pictures of what a perturbation is after."""
    images = _clean().clean[:4]
    labels = training.target(images).argmax(dim=1)
    seen = (images + held).clamp(0, 1)
    rectified = training.rectifier(seen)
    logits = training.target(seen if evades else rectified)
    fooled = F.cross_entropy(logits, labels, reduction="none").clamp(max=LOSS_CLIP).sum()
    if not evades or training.joint is None:
        return fooled
    excess = training.joint(seen - rectified) - training.joint.threshold
    return fooled - F.softplus(excess).sum()


@pytest.mark.parametrize("sharpness", [1.0, 30.0], ids=["below the clip", "beyond the clip"])
@pytest.mark.parametrize("evades", [False, True])
def test_the_gradient_is_that_of_what_the_perturbation_is_after(
    *, evades: bool, sharpness: float
) -> None:
    """Of the aimed pictures alone; the two aims differ."""
    training, held = _training(sharpness=sharpness), _held()
    assert training.joint is not None
    training.joint.seen.fill_(1.0)
    training.joint.threshold.fill_(0.4)
    batch = aimed_at(_clean(), held[None], SHARE)
    training.step(batch, rate=0.0, aim=Aim(perturbation=held, evades=evades))
    found = []
    # By hand afterwards, with the detector's running figures and threshold as the step left them.
    for other in (evades, not evades):
        leaf = held.detach().clone().requires_grad_()
        found.append(torch.autograd.grad(_after(training, leaf, evades=other), leaf)[0])
    assert held.grad is not None
    scale = float(found[0].abs().max())
    assert_close(held.grad / scale, found[0] / scale, DIFFERENCE_QUOTIENT)
    assert float(F.cosine_similarity(held.grad.flatten(), found[1].flatten(), dim=0)) < 0.99


def test_without_a_detector_every_perturbation_goes_through_the_rectifier() -> None:
    training, grads = _training(replace(RECIPE, detection=0.0)), []
    for evades in (False, True):
        held = _held()
        batch = aimed_at(_clean(), held[None], SHARE)
        training.step(batch, rate=0.0, aim=Aim(perturbation=held, evades=evades))
        grads.append(held.grad)
    assert torch.equal(*grads)
    assert grads[0].any()


def test_of_a_part_without_aimed_pictures_the_target_is_not_asked() -> None:
    """The second of two processes may hold none; not every classifier takes no pictures."""
    training, held = _training(), _held()
    batch = aimed_at(_clean(), held[None], SHARE)
    rest = RectifierBatch(**{name: value[4:] for name, value in vars(batch).items()})
    loss = rectifier_loss(
        training.rectifier, training.target, rest, recipe=RECIPE, joint=training.joint
    )
    aim = Aim(perturbation=held, evades=True)
    aim.differentiate(
        aim.objective(loss, rest, target=training.target, joint=training.joint, precision="float32")
    )
    assert held.grad is not None
    assert not held.grad.any()
