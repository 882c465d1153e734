"""Networks with and without what changes in training, and trainings of a handful of steps."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prn_guard.contract import InputSpec
from prn_guard.nn.target import Target
from tests.training.small import CLASSES, SHAPE, SIDE, SPEC, VALUES, pictures
from training.attacks.norms import Norm
from training.datasets import ArrayPictures
from training.hardening.job import MethodOptions
from training.hardening.recipe import Recipe
from training.hardening.trainer import Trainer

PLAIN_SPEC = InputSpec(
    channels=1, height=SIDE, width=SIDE, mean=(0.0,), std=(1.0,), channel_order="gray"
)
"""Pixels as they are: gradients by pictures are those by the network's input."""
BATCH = 8
OPTIONS: dict[str, MethodOptions] = {
    "shared": MethodOptions(sharedness=2, attack_steps=2),
    "pgd": MethodOptions(attack_steps=2),
}
"""What small mini-batches need."""


def changing() -> Target:
    """Batch statistics, dropout and pooling: training and evaluation mode differ."""
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, CLASSES),
    )  # fmt: skip
    with torch.no_grad():
        for _ in range(5):
            network(torch.randn(16, *SHAPE))
    return Target(network.eval(), SPEC)


def unchanging() -> Target:
    """Training and evaluation mode are the same."""
    torch.manual_seed(4)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(144, CLASSES)
    )
    return Target(network, SPEC)


def linear() -> Target:
    """Softmax regression on pixels: its Jacobian is its matrix."""
    torch.manual_seed(5)
    network = nn.Sequential(nn.Flatten(), nn.Linear(VALUES, CLASSES))
    with torch.no_grad():
        network[1].weight.mul_(3)
    return Target(network, PLAIN_SPEC)


def recipe(**changes: Any) -> Recipe:
    """Mini-batches of eight, two epochs."""
    usual: dict[str, Any] = {"epochs": 2, "batch_size": BATCH, "learning_rate": 0.1}
    return Recipe(**usual | changes)


def trainer(
    target: Target, of: ArrayPictures | None = None, *, rates: Recipe | None = None, **options: Any
) -> Trainer:
    """A training on 24 pictures, or on those given."""
    of = pictures(24, seed=6) if of is None else of
    return Trainer(target, of, recipe=rates or recipe(), seed=7, **options)


def state(target: Target) -> dict[str, Tensor]:
    """A copy of weights and buffers."""
    return {name: value.clone() for name, value in target.classifier.state_dict().items()}


def equal_states(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two have the same bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def vector(target: Target) -> Tensor:
    """All weights and buffers as one float64 vector."""
    return torch.cat([value.flatten().double() for value in state(target).values()])


def ball() -> dict[str, Any]:
    """Of the perturbations."""
    norm: Norm = "linf"
    return {"norm": norm, "epsilon": 0.1}


def first_batch(of: Trainer) -> tuple[Tensor, Tensor]:
    """The first mini-batch, and the network in training mode."""
    steps: Iterator[tuple[Tensor, Tensor]] = of.minibatches()
    return next(steps)


Make = Callable[[], Target]
NETWORKS = pytest.mark.parametrize("make", [changing, unchanging])


def mean_of(total: Tensor, count: int) -> Tensor:
    """A fifth of the mean: how the penalties of the tests are weighed."""
    return 0.2 * total / count
