"""The same few steps by a method of ours and by its float64 reference on softmax regression."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_guard.nn.target import Target
from tests.reference.hardening import Array, Labels, SoftmaxRegression
from tests.tolerances import WEIGHT_STEPS, assert_close
from tests.training.hardening.networks import BATCH, linear, recipe, trainer
from tests.training.small import pictures
from training.hardening.trainer import Trainer
from training.randomness import generator_for

STEPS, RATE = 3, 0.05
Step = Callable[[SoftmaxRegression, Array, Labels, int], list[Array]]
"""Maps model, pictures, labels and the number of the step to the gradients to descend."""
After = Callable[[SoftmaxRegression, Array, Labels, int], None]


@dataclass(frozen=True)
class Walk:
    """Where a training of three steps came to."""

    training: Trainer
    target: Target
    model: SoftmaxRegression
    """The reference, at the same place if all is right."""


def model_of(target: Target) -> SoftmaxRegression:
    """The reference at the weights of a linear target."""
    matrix, bias = (value.detach().double().numpy().copy() for value in target.parameters())
    return SoftmaxRegression(matrix, bias, RATE)


def batches_of(seed: int = 7) -> Iterator[tuple[Array, Labels, NDArray[Any]]]:
    """Mini-batches as they are documented to be: an order of each epoch, cut into runs."""
    of = pictures(BATCH * STEPS, seed=6)
    order = torch.randperm(len(of), generator=generator_for(seed, "epoch", 0))
    for positions in order.split(BATCH):
        yield flat(of.batch(positions)), of.labels[positions].numpy(), positions.numpy()


def flat(images: Tensor) -> Array:
    """Pictures as float64 rows."""
    return images.flatten(1).double().numpy()


def walk(method: Callable[[Trainer], None], step: Step, after: After | None = None) -> Walk:
    """Three steps of both, and a check that they end at the same weights."""
    target = linear()
    model = model_of(target)
    begin = model.matrix
    training = trainer(target, rates=recipe(epochs=1, learning_rate=RATE))
    method(training)
    for number, (images, labels, _) in enumerate(batches_of()):
        model.step(step(model, images, labels, number))
        if after is not None:
            after(model, images, labels, number)
    matrix, bias = (value.double().numpy() for value in target.parameters())
    assert np.abs(matrix - begin).max() > 100 * WEIGHT_STEPS.absolute
    assert_close(matrix, model.matrix, WEIGHT_STEPS)
    assert_close(bias, model.bias, WEIGHT_STEPS)
    return Walk(training, target, model)
