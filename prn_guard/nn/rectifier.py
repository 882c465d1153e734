"""Perturbation Rectifying Networks.

Source: Akhtar, Liu, Mian, "Defense against Universal Adversarial Perturbations", section 4.1.

Departures: the `compact` architecture works at space-to-depth resolution, looks at coarser
resolutions too (as the U-Net of Ronneberger et al. 2015), and adds a global residual,
`R(x) = x + s(x) g(x)`, whose last layer starts at zero so that training starts from the identity.
`s` in (0, 1) is one number for each picture (a gate on what the mean over the picture says, as in
squeeze-and-excitation, Hu et al. 2018); with one level alone it is 1. The output of both
architectures is clamped to [0, 1]. `in_half_precision` gives either float16 weights; pictures, and
the sum that makes the rectified one, stay in float32.
"""

import copy
from typing import Literal, cast, final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

PAPER_WIDTH = 64
PAPER_BLOCKS = 5
SMALL_PICTURE = 64
"""Up to this many pixels a side, resolution matters more than width (measured on CIFAR-10)."""


class RectifierSpec(BaseModel):
    """Everything needed to build a rectifier anew: architecture and its sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["paper", "compact"] = "compact"
    channels: Literal[1, 3]
    factor: int = Field(default=1, ge=1, le=8)
    width: int = Field(default=24, ge=1, le=512)
    blocks: int = Field(default=4, ge=1, le=32)
    levels: int = Field(default=1, ge=1, le=6)
    """Resolutions of `compact`: each is half of the last, at twice the width."""


@final
class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with ReLU and a skip connection; no normalisation layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map `(B, width, H, W)` to the same shape."""
        return F.relu(features + self.second(F.relu(self.first(features))))


@final
class PaperRectifier(nn.Module):
    """The published network: its output is the rectified image itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(channels, PAPER_WIDTH, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(PAPER_WIDTH) for _ in range(PAPER_BLOCKS)))
        self.squeeze = nn.Conv2d(PAPER_WIDTH, 16, 3, padding=1)
        self.exit = nn.Conv2d(16, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Rectified images, `(B, C, H, W)` float32 in [0, 1], as `images` are."""
        features = self.blocks(F.relu(self.entry(_like(images, self.entry.weight))))
        squeezed = F.relu(self.squeeze(features)).to(self.exit.weight.dtype)
        return cast("Tensor", self.exit(squeezed)).clamp(0.0, 1.0)


@final
class Coarser(nn.Module):
    """What residual blocks make of features at half their resolution and twice their width.

    The coarsest adds to its features an affine map of their mean over the picture: whether there is
    a perturbation, and which, shows everywhere, and a convolution sees a part.

    Args:
        width: channels of the features.
        blocks: residual blocks.
        levels: resolutions, this one and coarser ones.
    """

    def __init__(self, width: int, *, blocks: int, levels: int) -> None:
        super().__init__()
        inner = 2 * width
        self.down = nn.Conv2d(width, inner, 2, stride=2)
        self.coarser = Coarser(inner, blocks=blocks, levels=levels - 1) if levels > 1 else None
        self.context = nn.Conv2d(inner, inner, 1) if levels == 1 else None
        self.blocks = nn.Sequential(*(ResidualBlock(inner) for _ in range(blocks)))
        self.up = nn.Conv2d(inner, 4 * width, 1)
        if self.context is not None:
            nn.init.zeros_(self.context.weight)
            nn.init.zeros_(cast("Tensor", self.context.bias))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The same shape as `features` `(B, width, H, W)`, and the coarsest's mean `(B, F, 1, 1)`.

        Sides are multiples of `2 ** levels`.
        """
        coarse, mean = F.relu(self.down(features)), None
        if self.coarser is not None:
            coarse, mean = self.coarser(coarse)
        if self.context is not None:
            coarse = coarse + self.context(_global_average(coarse))
        coarse = self.blocks(coarse)
        finer = F.relu(features + F.pixel_shuffle(self.up(coarse), 2))
        return finer, _global_average(coarse) if mean is None else mean


@final
class CompactRectifier(nn.Module):
    """Residual blocks like the paper's at `1/factor` of the resolution, with a global residual.

    A 3x3 convolution after space-to-depth by `factor` is one convolution of kernel `3 * factor` and
    stride `factor`; written so, no channel order can go wrong at export. Pictures whose sides are
    no multiple of `factor * 2 ** (levels - 1)` are padded with zeros below and to the right, and
    cropped again.

    Where there are coarser levels, what is removed is multiplied by one number in (0, 1) for each
    picture, which the coarsest's mean tells: as good as nothing is to be removed where no
    perturbation is, and that cannot be seen in one place.

    Args:
        channels: of the pictures.
        factor: what the resolution is divided by at the finest level.
        width: channels of its features; each coarser level has twice as many.
        blocks: residual blocks of each level.
        levels: resolutions, each half of the last.
    """

    def __init__(
        self, channels: int, *, factor: int, width: int, blocks: int, levels: int = 1
    ) -> None:
        super().__init__()
        self.factor = factor
        self.multiple = factor * 2 ** (levels - 1)
        self.entry = nn.Conv2d(channels, width, 3 * factor, stride=factor, padding=factor)
        self.coarser = Coarser(width, blocks=blocks, levels=levels - 1) if levels > 1 else None
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.gate = _gate(width * 2 ** (levels - 1)) if levels > 1 else None
        self.exit = nn.Conv2d(width, channels * factor**2, 3, padding=1)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(cast("Tensor", self.exit.bias))

    def forward(self, images: Tensor) -> Tensor:
        """Rectified images, `(B, C, H, W)` float32 in [0, 1], as `images` are."""
        height, width = images.shape[2:]
        below, right = -height % self.multiple, -width % self.multiple
        padded = F.pad(images, (0, right, 0, below)) if below or right else images
        features = F.relu(self.entry(_like(padded, self.entry.weight)))
        gate = None
        if self.coarser is not None and self.gate is not None:
            features, mean = self.coarser(features)
            gate = self.gate(mean)
        residual = self.exit(self.blocks(features))
        if self.factor > 1:
            residual = F.pixel_shuffle(residual, self.factor)
        if below or right:
            residual = residual[:, :, :height, :width]
        residual = residual.to(images.dtype)
        if gate is not None:
            residual = gate.to(images.dtype).sigmoid() * residual
        rectified: Tensor = images + residual
        return rectified.clamp(0.0, 1.0)


def _gate(features: int) -> nn.Sequential:
    """From a mean of features `(B, F, 1, 1)` to the logit of how much of it is removed."""
    last = nn.Conv2d(features, 1, 1)
    nn.init.zeros_(last.weight)
    nn.init.ones_(cast("Tensor", last.bias))
    return nn.Sequential(nn.Conv2d(features, features, 1), nn.ReLU(), last)


def _global_average(features: Tensor) -> Tensor:
    """Over each picture, `(B, F, 1, 1)`: as a pooling, which all opsets write alike."""
    return F.avg_pool2d(features, features.shape[2:])


def _like(images: Tensor, weight: Tensor) -> Tensor:
    """`images` in the dtype of `weight` and channels last, as all weights are."""
    return images.to(weight.dtype).contiguous(memory_format=torch.channels_last)


def in_half_precision(rectifier: nn.Module) -> nn.Module:
    """A copy of `rectifier` that computes in float16, between float32 pictures.

    What the detector reads is the difference of two pictures, which half precision would round to
    1/2048: `compact` emits that difference itself, and the last layer of `paper`, whose output is
    the picture, stays in float32.
    """
    half = copy.deepcopy(rectifier).half()
    if isinstance(half, PaperRectifier):
        half.exit.float()
    return half


def default_spec(channels: Literal[1, 3], height: int, width: int) -> RectifierSpec:
    """The rectifier to take for pictures of this size.

    Small pictures keep their full resolution and thin layers: at 32x32 a rectifier at half the
    resolution restored 63-74 % where full-resolution ones restored 84-87 %. Three levels cost a
    seventh more than one of three blocks, and have eight times the weights: 9.8 MMAC, a quarter of
    what ResNet-20 takes, a 40th of the paper's network. Larger pictures are worked on at a quarter
    of their resolution: 0.29 GMAC at 224x224, where the paper's network takes 19.07.
    """
    if max(height, width) <= SMALL_PICTURE:
        return RectifierSpec(channels=channels, factor=1, width=12, blocks=1, levels=3)
    return RectifierSpec(channels=channels, factor=4, width=32, blocks=1, levels=3)


def build_rectifier(spec: RectifierSpec, *, generator: torch.Generator | None = None) -> nn.Module:
    """Build the rectifier that `spec` describes, its weights drawn from `generator`."""
    # Channels last: convolutions this thin take two thirds of the time on a CPU.
    return _build(spec, generator).to(memory_format=torch.channels_last)


def _build(spec: RectifierSpec, generator: torch.Generator | None) -> nn.Module:
    seed = int(torch.randint(2**31, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):
        # Not `torch.manual_seed`: that seeds the generators of all CUDA devices too, for good.
        torch.default_generator.manual_seed(seed)
        if spec.architecture == "paper":
            return PaperRectifier(spec.channels)
        return CompactRectifier(
            spec.channels,
            factor=spec.factor,
            width=spec.width,
            blocks=spec.blocks,
            levels=spec.levels,
        )
