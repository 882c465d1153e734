"""A small network that maps noise vectors to perturbations of any picture size.

Source: the shape of the generators of GAP and NAG (see `generator`): a projection of the noise to
a few coarse feature maps, then stages that double the resolution.

Departures: stages repeat pixels and convolve, where NAG transposes convolutions, because the
strides of those leave a checkerboard of their own; features are normalised per perturbation and
not over a batch, so that a perturbation depends on its own noise vector only; a learnt canvas,
which begins at zero and is the same for all noise, is added to what is painted; sizes that are no
multiple of the coarse one are cut from the next larger.
"""

from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NOISE_LENGTH: Final = 10
"""Of a noise vector, as in NAG, section 3.1."""
COARSEST: Final = 7
"""Longest side, in pixels, at which the stages begin."""


@final
class GeneratorNetwork(nn.Module):
    """Noise vectors to perturbations that are not yet brought to a ball.

    Args:
        shape: `(C, H, W)` of a perturbation.
        generator: CPU generator that draws the weights; the global one is left alone.
        width: number of feature maps.
    """

    def __init__(
        self, shape: tuple[int, int, int], *, generator: torch.Generator, width: int = 64
    ) -> None:
        super().__init__()
        self._shape, self._width = shape, width
        doublings = 0
        while max(shape[1:]) > COARSEST << doublings:
            doublings += 1
        self._coarse = [-(-side // (1 << doublings)) for side in shape[1:]]
        features = width * self._coarse[0] * self._coarse[1]
        self.spread = nn.Linear(NOISE_LENGTH, features, device="meta")
        self.stages = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, device="meta") for _ in range(doublings)
        )
        self.paint = nn.Conv2d(width, shape[0], 3, padding=1, device="meta")
        # Layers made on the CPU would draw their weights from the global generator.
        self.to_empty(device="cpu")
        self.canvas = nn.Parameter(torch.zeros(shape))
        for layer in (self.spread, *self.stages, self.paint):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, noise: Tensor) -> Tensor:
        """Perturbations `(P, C, H, W)` of noise `(P, NOISE_LENGTH)` in [-1, 1]; unbounded."""
        features = F.relu(self.spread(noise)).reshape(len(noise), self._width, *self._coarse)
        for stage in self.stages:
            features = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = F.relu(F.instance_norm(stage(features)))
        painted: Tensor = self.paint(features)
        return self.canvas + painted[:, :, : self._shape[1], : self._shape[2]]


def draw_noise(count: int, *, generator: torch.Generator) -> Tensor:
    """Noise vectors `(count, NOISE_LENGTH)` float32, uniform in [-1, 1], on the CPU."""
    return torch.rand(count, NOISE_LENGTH, generator=generator) * 2 - 1
