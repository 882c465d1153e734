"""The mean loss under a stack of perturbations, against a plain loop in NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from tests.reference import losses as reference
from tests.tolerances import LOSS, assert_close
from tests.training.small import SHAPE, everything, pictures, trained_target
from training.attacks.losses import LossName
from training.attacks.objectives import LOSSES, mean_loss

KNOWN = pictures(30, seed=7)
POSITIONS = torch.tensor([3, 17, 4, 4, 29])


def _stack(count: int) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1)) * 0.3


def _logits(perturbation: Tensor | None = None) -> np.ndarray:
    images = everything(KNOWN)[POSITIONS]
    if perturbation is not None:
        images = (images + perturbation).clamp(0, 1)
    with torch.no_grad():
        return np.asarray(trained_target()(images), dtype=np.float64)


def _away(loss: LossName, perturbation: Tensor) -> float:
    clean, seen = _logits(), _logits(perturbation)
    labels = clean.argmax(axis=1)
    if loss == "cross_entropy":
        return float(np.minimum(reference.cross_entropy(seen, labels), 9).mean())
    if loss == "logit_margin":
        pairs = zip(seen, labels, strict=True)
        leads = [np.delete(row, label).max() - row[label] for row, label in pairs]
        return float(np.minimum(leads, 10).mean())
    lengths = np.linalg.norm(clean, axis=1) * np.linalg.norm(seen, axis=1)
    return float((-(clean * seen).sum(axis=1) / lengths).mean())


@pytest.mark.parametrize("loss", LOSSES)
def test_each_perturbation_gets_the_mean_over_the_batch(loss: LossName) -> None:
    stack = _stack(3)
    objective = mean_loss(trained_target(), KNOWN, [None] * 3, loss=loss)
    result = objective(everything(KNOWN)[POSITIONS], POSITIONS, stack)
    assert_close(result, [_away(loss, one) for one in stack], LOSS)


@pytest.mark.parametrize("loss", ["cross_entropy", "logit_margin"])
def test_members_of_a_stack_have_classes_of_their_own(loss: LossName) -> None:
    stack = _stack(3)
    objective = mean_loss(trained_target(), KNOWN, [2, None, 0], loss=loss)
    result = objective(everything(KNOWN)[POSITIONS], POSITIONS, stack)
    for number, target_class in ((0, 2), (2, 0)):
        seen = _logits(stack[number])
        if loss == "cross_entropy":
            oracle = -reference.cross_entropy(seen, np.full(len(seen), target_class)).mean()
        else:
            others = np.delete(seen, target_class, axis=1).max(axis=1)
            oracle = np.minimum(seen[:, target_class] - others, 10).mean()
        assert_close(result[number], oracle, LOSS)
    assert_close(result[1], _away(loss, stack[1]), LOSS)


def test_a_perturbation_moves_only_its_own_value() -> None:
    stack = _stack(2).requires_grad_()
    objective = mean_loss(trained_target(), KNOWN, [None, 1])
    value = objective(everything(KNOWN)[POSITIONS], POSITIONS, stack)[0]
    (gradient,) = torch.autograd.grad(value, stack)
    assert gradient[0].abs().max() > 0
    assert not gradient[1].any()


@pytest.mark.parametrize(
    ("classes", "loss", "message"),
    [
        ([3], "cross_entropy", "target_class is 3; expected 0 to 2"),
        ([None, -1], "logit_margin", "target_class is -1"),
        ([None], "hinge", "loss is 'hinge'; expected one of cross_entropy, "),
        ([1], "logit_cosine", "knows no target class"),
    ],
)
def test_what_makes_no_sense_is_refused(
    classes: list[int | None], loss: LossName, message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        mean_loss(trained_target(), KNOWN, classes, loss=loss)
