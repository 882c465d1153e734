"""Decoding pictures once where they are read often."""

from typing import Final, final

import torch
from torch import Tensor

from prn_guard.errors import DataError
from training.datasets.fitting import Shape
from training.datasets.pictures import ArrayPictures, Pictures, batches

LARGEST_BYTES: Final = 2**30
CPU: Final = torch.device("cpu")
BATCH: Final = 256
PIXELS_AT_ONCE: Final = 1_600_000
"""A network with 64 channels at full resolution then takes about 400 MB per layer."""


def batch_for(shape: Shape, largest: int) -> int:
    """How many pictures of `shape` to take at once: `largest`, fewer where pictures are big."""
    return max(1, min(largest, PIXELS_AT_ONCE // (shape[1] * shape[2])))


def held_in_memory(
    pictures: Pictures,
    *,
    device: torch.device = CPU,
    largest_bytes: int = LARGEST_BYTES,
) -> Pictures:
    """The same pictures, cut at the centre, decoded and kept as 8-bit pixels on `device`.

    An attack reads each picture many times; decoding a JPEG costs more than a small network's
    answer. On the CPU, sets that would take more than `largest_bytes` are returned as they are.

    Raises:
        DataError: so many pictures do not belong into the memory of another device.
    """
    channels, height, width = pictures.shape
    size = len(pictures) * channels * height * width
    if size > largest_bytes:
        if device == CPU:
            return pictures
        raise DataError(
            f"{len(pictures)} pictures of {channels}x{height}x{width} take {size / 2**30:.1f} GiB "
            f"on {device}, more than {largest_bytes / 2**30:.1f}. Use fewer, as by --limit."
        )
    images = torch.empty(len(pictures), channels, height, width, dtype=torch.uint8)
    begin = 0
    for batch, _ in batches(pictures, BATCH):
        images[begin : begin + len(batch)] = (batch * 255).round()
        begin += len(batch)
    return ArrayPictures(images.to(device), pictures.labels, pictures.class_names)


def on_device(pictures: Pictures, device: torch.device) -> Pictures:
    """The same pictures, put on `device` as they are read, so that larger ones are still cut."""
    return pictures if pictures.device == device else _Moved(pictures, device)


@final
class _Moved:
    """Pictures whose batches go to another device."""

    def __init__(self, pictures: Pictures, device: torch.device) -> None:
        self._pictures = pictures
        self._device = device

    @property
    def shape(self) -> Shape:
        """`(C, H, W)` of every picture."""
        return self._pictures.shape

    @property
    def device(self) -> torch.device:
        """Where `batch` puts the pictures."""
        return self._device

    @property
    def labels(self) -> Tensor:
        """Class indices `(N,)` int64 on the CPU."""
        return self._pictures.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, by index."""
        return self._pictures.class_names

    def __len__(self) -> int:
        return len(self._pictures)

    def batch(self, indices: Tensor, *, crops: torch.Generator | None = None) -> Tensor:
        """Read pictures as `Pictures.batch` says: `(B, C, H, W)` float32 in [0, 1]."""
        return self._pictures.batch(indices, crops=crops).to(self._device)
