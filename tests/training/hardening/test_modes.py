"""Networks that are another in training mode, and those that cannot be trained."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prn_guard.errors import TargetError
from prn_guard.nn.target import Target
from tests.training.hardening.networks import (
    PLAIN_SPEC,
    changing,
    equal_states,
    state,
    trainer,
    unchanging,
)
from tests.training.small import CLASSES, VALUES
from training.hardening.modes import modes_agree


class _Sometimes(nn.Module):
    """Drops the whole batch in one of seven passes in training mode."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training and torch.rand(()) < 1 / 7:
            return images * 0
        return images


def test_a_layer_that_is_dropped_seldom_is_noticed_whatever_the_callers_random_numbers() -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        network = nn.Sequential(_Sometimes(), nn.Flatten(), nn.Linear(VALUES, CLASSES))
        before = torch.random.get_rng_state()
        assert not modes_agree(Target(network, PLAIN_SPEC))
        assert torch.equal(torch.random.get_rng_state(), before)


def test_asking_whether_modes_agree_leaves_batch_statistics_alone() -> None:
    target = changing()
    before = state(target)
    assert not modes_agree(target)
    assert equal_states(before, state(target))
    assert modes_agree(unchanging())


class _TwoHeads(nn.Module):
    """As GoogLeNet: in training mode an auxiliary head answers beside."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(VALUES, CLASSES)

    def forward(self, images: Tensor) -> Any:
        logits = self.head(images.flatten(1))
        return (logits, logits) if self.training else logits


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (_TwoHeads(), "answers with tuple; expected logits alone.*aux_logits=False"),
        (nn.Sequential(nn.AdaptiveAvgPool2d((1, 3)), nn.Flatten()), "no weights"),
    ],
)
def test_networks_that_cannot_be_trained_are_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        trainer(Target(network, PLAIN_SPEC))
