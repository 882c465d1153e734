"""The idx files of MNIST and Fashion-MNIST, plain or gzipped.

Format: two zero bytes, 8 for unsigned bytes, the number of dimensions, each dimension as a
big-endian 32-bit count, then the values.
"""

import gzip
import io
import math
import struct
import zlib
from itertools import product
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor

from prn_guard.errors import DataError

Split = Literal["train", "test"]

PREFIXES: Final[dict[Split, str]] = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTES = 8
_PIECE = 1 << 20


def has_idx_files(folder: Path) -> bool:
    """Whether any of the four idx files stands in `folder`."""
    return any(
        _find(folder, f"{prefix}-{kind}")
        for prefix, kind in product(PREFIXES.values(), ("images-idx3", "labels-idx1"))
    )


def read_idx_split(folder: Path, split: Split) -> tuple[Tensor, Tensor]:
    """Read one split of an MNIST-like set.

    Returns:
        images `(N, 1, H, W)` uint8 0..255 and labels `(N,)` int64.

    Raises:
        DataError: a file is missing or damaged, or the two do not count the same pictures.
    """
    images_path = _existing(folder, f"{PREFIXES[split]}-images-idx3")
    labels_path = _existing(folder, f"{PREFIXES[split]}-labels-idx1")
    images = read_idx(images_path, dimensions=3)
    labels = read_idx(labels_path, dimensions=1)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} has {len(images)} pictures, but {labels_path} has {len(labels)} "
            "labels. They do not belong together; fetch both again."
        )
    return images.unsqueeze(1), labels.to(torch.int64)


def read_idx(path: Path, *, dimensions: int) -> Tensor:
    """Read one idx file of unsigned bytes with so many dimensions, as a uint8 tensor.

    Raises:
        DataError: unreadable, not of this format, or longer or shorter than its header says.
    """
    try:
        with _open(path) as stream:
            shape = _read_header(stream, path, dimensions)
            wanted = math.prod(shape)
            content = _read_at_most(stream, wanted + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. Fetch it again.") from error
    if len(content) != wanted:
        found = f"only {len(content)}" if len(content) < wanted else "more"
        raise DataError(
            f"{path} promises {wanted} values in its header {shape}, but holds {found}. It is "
            "damaged: fetch it again."
        )
    return torch.frombuffer(content, dtype=torch.uint8).reshape(shape)


def _read_header(stream: io.BufferedIOBase, path: Path, dimensions: int) -> tuple[int, ...]:
    magic = stream.read(4)
    expected = bytes((0, 0, _UNSIGNED_BYTES, dimensions))
    if magic != expected:
        raise DataError(
            f"{path} begins with {magic.hex(' ') or 'nothing'}; an idx file of bytes with "
            f"{dimensions} dimension(s) begins with {expected.hex(' ')}. Is it the right file?"
        )
    header = stream.read(4 * dimensions)
    if len(header) != 4 * dimensions:
        raise DataError(f"{path} is cut short inside its header. Fetch it again.")
    shape = struct.unpack(f">{dimensions}I", header)
    if 0 in shape:
        raise DataError(f"{path} promises nothing: its header says {shape}. Fetch it again.")
    return shape


def _read_at_most(stream: io.BufferedIOBase, count: int) -> bytearray:
    # In pieces: a damaged header may promise more bytes than there is memory.
    content = bytearray()
    while len(content) < count and (piece := stream.read(min(_PIECE, count - len(content)))):
        content += piece
    return content


def _open(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")


def _find(folder: Path, stem: str) -> Path | None:
    # Some mirrors write a dot before "idx".
    for name, suffix in product((stem, stem.replace("-idx", ".idx")), ("", ".gz")):
        path = folder / f"{name}-ubyte{suffix}"
        if path.is_file():
            return path
    return None


def _existing(folder: Path, stem: str) -> Path:
    path = _find(folder, stem)
    if path is None:
        raise DataError(
            f"{folder} has no {stem}-ubyte or {stem}-ubyte.gz. An MNIST-like folder needs the "
            "pictures and the labels of the split that is read; fetch the missing file."
        )
    return path
