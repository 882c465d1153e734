"""The frozen classifier that the guard defends, wrapped with its own input scaling."""

import hashlib
from typing import Self, cast, final

import torch
from torch import Tensor, nn

from prn_guard.contract import InputSpec
from prn_guard.errors import TargetError


@final
class Target(nn.Module):
    """A classifier that takes pixels in [0, 1] and owns its normalisation.

    Everything outside works on [0, 1] pixels in RGB order; what the classifier was trained with
    (range, mean, std, channel order) is applied here and nowhere else. The wrapped network is
    frozen and stays in evaluation mode, BatchNorm statistics included, whatever `train()` is
    called with.

    Args:
        classifier: maps `(B, C, H, W)` float32 on the scale of `spec` to logits `(B, K)`; or
            `(B, H, W, C)`, where the layout of `spec` says so.
        spec: that scale and layout.
    """

    def __init__(self, classifier: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec
        self.classifier = classifier
        shape = (1, spec.channels, 1, 1)
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).reshape(shape), persistent=False)
        self.requires_grad_(requires_grad=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)` of `images`, `(B, C, H, W)` float32 in [0, 1], RGB."""
        pixels = images * self.spec.pixel_range if self.spec.pixel_range != 1 else images
        if self.spec.channel_order == "bgr":
            pixels = pixels.flip(1)
        mean, std = cast("Tensor", self.mean), cast("Tensor", self.std)
        pixels = (pixels - mean) / std
        if self.spec.layout == "nhwc":
            # Made contiguous, because the exporter turns a bare permutation into shape arithmetic.
            pixels = pixels.permute(0, 2, 3, 1).contiguous()
        return cast("Tensor", self.classifier(pixels))

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002 - the signature is torch's
        """Stay in evaluation mode."""
        return super().train(mode=False)


def state_digest(module: nn.Module) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of all weights and buffers of `module`."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name}|{array.dtype}|{tuple(array.shape)}|".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def count_classes(target: Target) -> int:
    """Number of classes `K`, read off the logits of one gray picture.

    Raises:
        TargetError: the classifier fails on an input of the stated shape, or its output is not
            finite logits `(1, K)` with `K >= 2`.
    """
    device = cast("Tensor", target.mean).device
    picture = torch.full((1, *target.spec.shape), 0.5, device=device)
    try:
        logits = target(picture)
    except Exception as error:  # whatever a foreign network raises on a wrong size
        raise TargetError(
            f"The target fails on a picture of shape {target.spec.shape} (channels, height, "
            f"width): {type(error).__name__}: {error}. State the size it was made for by "
            "--input-shape."
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise TargetError(
            f"The target answers one picture with {got}; expected logits of shape (1, classes), at "
            "least 2 classes. Let the factory return a module whose output is one logits tensor."
        )
    if not bool(torch.isfinite(logits).all()):
        raise TargetError(
            "The target answers a plain gray picture with logits that are not finite. Its weights "
            "or its normalisation are broken; check the checkpoint, mean and std."
        )
    return int(logits.shape[1])
