"""Pictures and classifiers so small that an attack on them takes a tenth of a second."""

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prn_guard.contract import InputSpec
from prn_guard.nn.target import Target
from training.datasets import ArrayPictures, Pictures

SIDE = 12
SHAPE = (1, SIDE, SIDE)
VALUES = SIDE * SIDE
CLASSES = 3
NAMES = ("left", "middle", "right")
SPEC = InputSpec(
    channels=1, height=SIDE, width=SIDE, mean=(0.5,), std=(0.25,), channel_order="gray"
)


def pictures(count: int, *, seed: int = 0) -> ArrayPictures:
    """Noisy gray pictures with a brighter band on the left, in the middle or on the right."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    pixels = 128 + 25 * torch.randn(count, *SHAPE, generator=generator)
    for label in range(CLASSES):
        pixels[labels == label, :, :, 4 * label : 4 * label + 4] += 35
    return ArrayPictures(pixels.clamp(0, 255).to(torch.uint8), labels, NAMES)


def gray_pictures(count: int, *, seed: int = 0) -> ArrayPictures:
    """Noise between 0.35 and 0.65: a perturbation of up to 0.35 is nowhere clipped."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(90, 166, (count, *SHAPE), generator=generator)
    labels = torch.randint(2, (count,), generator=generator)
    return ArrayPictures(pixels.to(torch.uint8), labels, ("no", "yes"))


def everything(of: Pictures) -> Tensor:
    """All pictures of a set, `(N, C, H, W)`."""
    return of.batch(torch.arange(len(of)))


@functools.cache
def trained_target() -> Target:
    """A convolution with batch statistics and two linear layers, right on nearly every picture."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(216, 24), nn.ReLU(), nn.Linear(24, CLASSES),
    )  # fmt: skip
    known = pictures(400, seed=1)
    pixels = (everything(known) - 0.5) / 0.25
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(network(pixels), known.labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return Target(network, SPEC)


def linear_classifier(normal: Tensor, offset: float = 0.0) -> nn.Module:
    """Two classes: logits `(-f/2, f/2)` with `f(x) = normal . x + offset`."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(normal.numel(), 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([-normal.flatten(), normal.flatten()]) / 2)
        network[1].bias.copy_(torch.tensor([-offset, offset]) / 2)
    return network.requires_grad_(requires_grad=False)


def through_the_middle(of: ArrayPictures, *, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A linear classifier of random normal that says "yes" to half of `of`, and the normal."""
    normal = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    middle = (everything(of) * normal).sum(dim=(1, 2, 3)).median()
    return linear_classifier(normal, -float(middle)), normal


class Mirror(nn.Module):
    """A rectifier that swaps left and right, so that rectified pictures get other labels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flip(3)
