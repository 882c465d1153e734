"""LeNet for Fashion-MNIST, the demonstration's classifier in service.

Source: Co, Rego, Lupu, "Jacobian Regularization for Mitigating Universal Adversarial
Perturbations", section 4.1: LeNet-5 with ReLU and max-pooling. This file shows how a user declares
a target: a factory without arguments that returns a `Target` which owns its normalisation.
"""

from torch import nn

from prn_guard.contract import InputSpec
from prn_guard.nn.target import Target

FASHION_MNIST_MEAN = 0.2860
FASHION_MNIST_STD = 0.3530


def lenet() -> Target:
    """LeNet with untrained weights; give its checkpoint with `--weights`."""
    spec = InputSpec(
        channels=1,
        height=28,
        width=28,
        mean=(FASHION_MNIST_MEAN,),
        std=(FASHION_MNIST_STD,),
        channel_order="gray",
    )
    return Target(network(), spec)


def network() -> nn.Sequential:
    """Two convolutions with pooling, three linear layers; 61,706 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )
