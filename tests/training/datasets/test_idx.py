"""The idx reader against bytes written by hand."""

import gzip
import struct
from pathlib import Path

import pytest
import torch

from prn_guard.errors import DataError
from training.datasets.idx import has_idx_files, read_idx, read_idx_split

# Two pictures of 2 x 3: magic, counts, then the values row by row.
PICTURES = (
    b"\x00\x00\x08\x03\x00\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00\x03"
    b"\x00\x01\x02\x03\x04\x05\xfa\xfb\xfc\xfd\xfe\xff"
)
LABELS = b"\x00\x00\x08\x01\x00\x00\x00\x02\x07\x03"


def _write(folder: Path, pictures: bytes = PICTURES, labels: bytes = LABELS) -> Path:
    (folder / "t10k-images-idx3-ubyte").write_bytes(pictures)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(labels)
    return folder


def test_hand_made_bytes_are_read(tmp_path: Path) -> None:
    images, labels = read_idx_split(_write(tmp_path), "test")
    assert images.tolist() == [[[[0, 1, 2], [3, 4, 5]]], [[[250, 251, 252], [253, 254, 255]]]]
    assert labels.tolist() == [7, 3]
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)


@pytest.mark.parametrize("stem", ["-idx", ".idx"])
def test_gzip_and_both_spellings_are_read(tmp_path: Path, stem: str) -> None:
    (tmp_path / f"train-images{stem}3-ubyte.gz").write_bytes(gzip.compress(PICTURES))
    (tmp_path / f"train-labels{stem}1-ubyte.gz").write_bytes(gzip.compress(LABELS))
    assert has_idx_files(tmp_path)
    images, labels = read_idx_split(tmp_path, "train")
    assert (images.sum().item(), labels.tolist()) == (15 + 1515, [7, 3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x00\x00", "begins with 00 00;"),
        (b"\x00\x00\x08\x01" + PICTURES[4:], "begins with 00 00 08 01;.*00 00 08 03"),
        (b"\x00\x00\x0d\x03" + PICTURES[4:], "00 00 0d 03"),
        (PICTURES[:9], "cut short inside its header"),
        (PICTURES[:-1], r"12 values.*\(2, 2, 3\).*only 11"),
        (PICTURES + b"\x00", "12 values.*holds more"),
        (PICTURES[:4] + bytes(12), "promises nothing"),
        (PICTURES[:4] + b"\xff" * 12 + b"\x00", "only 1"),
        (gzip.compress(PICTURES)[:-9], "cannot be read"),
        (gzip.compress(PICTURES)[:-6] + b"\x00\x00" + gzip.compress(PICTURES)[-4:], "CRC"),
        (b"\x1f\x8b but no gzip", "cannot be read"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"damaged.*{message}"):
        read_idx(path, dimensions=3)


def test_counts_that_differ_are_refused(tmp_path: Path) -> None:
    three = struct.pack(">4BI3B", 0, 0, 8, 1, 3, 1, 2, 3)
    with pytest.raises(DataError, match=r"2 pictures, but .* has 3 labels"):
        read_idx_split(_write(tmp_path, labels=three), "test")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    _write(tmp_path)
    with pytest.raises(DataError, match="no train-images-idx3-ubyte"):
        read_idx_split(tmp_path, "train")
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no t10k-labels-idx1-ubyte"):
        read_idx_split(tmp_path, "test")
    assert has_idx_files(tmp_path)


def test_other_folders_have_no_idx_files(tmp_path: Path) -> None:
    assert not has_idx_files(tmp_path)
    assert not has_idx_files(tmp_path / "missing")
