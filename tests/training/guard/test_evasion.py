"""The joint loss of an attacker who stays unflagged, against NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from prn_guard.nn.guarded import GuardedClassifier
from tests.tolerances import SURROGATE, assert_close
from tests.training.small import SHAPE
from training.attacks.objectives import mean_loss
from training.datasets import Pictures
from training.guard.evasion import evading

POSITIONS = torch.tensor([3, 17, 4, 29])


def _stack() -> Tensor:
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.mark.parametrize("weight", [0.1, 10.0])
def test_the_penalty_is_the_mean_softplus_of_the_excess(
    guarded: GuardedClassifier, test_set: Pictures, weight: float
) -> None:
    plain = mean_loss(guarded.target, test_set, [None, 1])
    images, stack = test_set.batch(POSITIONS), _stack()
    joint = evading(plain, guarded, weight=weight)
    penalties = []
    for one in stack:
        _, score, _ = guarded.examine((images + one).clamp(0, 1))
        over = (score - guarded.detector.threshold).double().numpy()
        penalties.append(np.log1p(np.exp(over)).mean())
    losses = np.asarray(plain(images, POSITIONS, stack), dtype=np.float64)
    oracle = losses - weight * np.array(penalties)
    assert_close(joint(images, POSITIONS, stack), oracle, SURROGATE)
    assert np.ptp(penalties) > 1e-3


def test_the_gradient_of_the_penalty_reaches_the_perturbation(
    guarded: GuardedClassifier, test_set: Pictures
) -> None:
    leaf = _stack().requires_grad_()
    nothing = evading(lambda *_: torch.zeros(2), guarded, weight=1.0)
    value = nothing(test_set.batch(POSITIONS), POSITIONS, leaf)
    (gradient,) = torch.autograd.grad(value[0], leaf)
    assert float(gradient[0].norm()) > 0
    assert not gradient[1].any()


def test_without_a_detector_nothing_is_subtracted(
    guarded: GuardedClassifier, test_set: Pictures
) -> None:
    guarded.detector.threshold.fill_(torch.inf)
    plain = mean_loss(guarded.target, test_set, [None, None])
    given = (test_set.batch(POSITIONS), POSITIONS, _stack())
    assert torch.equal(evading(plain, guarded, weight=10.0)(*given), plain(*given))
