"""Finding Fashion-MNIST: a given folder, the system's package, or torchvision's download."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from torch import Tensor
from torchvision.datasets import FashionMNIST

from prn_guard.errors import DataError
from training.datasets.idx import Split, has_idx_files, read_idx_split

CLASS_NAMES: Final = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SYSTEM_FOLDER: Final = Path("/usr/share/datasets/fashion-mnist")
_DOWNLOAD_SILENCE_SECONDS = 10.0


def load_fashion_mnist(split: Split, data_folder: Path | None = None) -> tuple[Tensor, Tensor]:
    """Read one split from the first place that has the set.

    Args:
        split: `train` (60,000) or `test` (10,000).
        data_folder: folder to look in first.

    Returns:
        images `(N, 1, 28, 28)` uint8 0..255 and labels `(N,)` int64.

    Raises:
        DataError: no place has the set (the message says why for each), or its files are damaged.
    """
    reasons = []
    for place, folder in (
        ("the given folder", data_folder),
        ("the system's package", SYSTEM_FOLDER),
    ):
        if folder is None:
            reasons.append(f"{place}: none was given")
        elif has_idx_files(folder):
            return read_idx_split(folder, split)
        else:
            why = "holds no idx files" if folder.is_dir() else "does not exist"
            reasons.append(f"{place}: {folder} {why}")
    cache = cache_folder()
    try:
        with _limited_silence():
            FashionMNIST(str(cache), train=split == "train", download=True)
    except (OSError, RuntimeError, ValueError) as error:
        reasons.append(f"torchvision's download into {cache}: {_one_line(error)}")
    else:
        return read_idx_split(cache / "FashionMNIST" / "raw", split)
    tried = "; ".join(f"({number}) {reason}" for number, reason in enumerate(reasons, start=1))
    raise DataError(
        f"Fashion-MNIST was not found. Tried {tried}. Install Debian's package "
        "dataset-fashion-mnist, or name a folder that holds its four idx files, or allow the "
        "download."
    )


def cache_folder() -> Path:
    """Where downloads of this user stand."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "prn-guard"


@contextmanager
def _limited_silence() -> Iterator[None]:
    # torchvision sets no limit of its own, and a network that drops packets would hang for ever.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_SILENCE_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
