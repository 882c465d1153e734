"""CIFAR-10's strips: one picture a row, channels last in the file, labels beside."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prn_guard.errors import DataError
from training.datasets import load_pictures
from training.datasets.cifar10 import CLASS_NAMES, read_cifar10

ROWS = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels = rng.integers(0, 256, (ROWS, 1024, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "test_lables.json").write_text(json.dumps([0, 9, 3, 1]))
    (tmp_path / "train_lables.json").write_text(json.dumps([n % 10 for n in range(5 * ROWS)]))
    return tmp_path


def test_a_row_is_a_picture(folder: Path) -> None:
    images, labels = read_cifar10(folder, "test")
    strip = np.asarray(Image.open(folder / "test_batch.png"))
    for row in range(ROWS):
        expected = strip[row].reshape(32, 32, 3).transpose(2, 0, 1)
        assert np.array_equal(images[row].numpy(), expected)
    assert labels.tolist() == [0, 9, 3, 1]


def test_training_strips_stand_in_their_order(folder: Path) -> None:
    images, labels = read_cifar10(folder, "train")
    fifth = np.asarray(Image.open(folder / "data_batch_5.png"))
    assert np.array_equal(images[-1, 2, 5].numpy(), fifth[-1].reshape(32, 32, 3)[5, :, 2])
    assert labels.tolist() == [n % 10 for n in range(20)]


def test_the_folder_is_recognised_by_its_files(folder: Path) -> None:
    pictures = load_pictures(str(folder), split="test", size=(3, 32, 32), class_count=10)
    assert (len(pictures), pictures.class_names) == (ROWS, CLASS_NAMES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test_lables.json", b"[0, 1]", "does not give each of the 4 pictures"),
        ("test_lables.json", b"[0, 1, 2, 10]", "a label from 0 to 9"),
        ("test_lables.json", b'["cat", 1, 2, 3]', "no list of labels"),
        ("test_lables.json", b"[1.9, 1, 2, 3]", "no list of labels, whole numbers"),
        ("test_lables.json", b"[true, 1, 2, 3]", "no list of labels, whole numbers"),
        ("test_lables.json", b"[[0], [1], [2], [3]]", "no list of labels, whole numbers"),
        ("test_lables.json", b"[0, 1, 2, 99999999999999999999]", "a label from 0 to 9"),
        ("test_lables.json", b"{", "no list of labels"),
        ("test_batch.png", b"\x89PNG\r\n\x1a\n", "cannot be read as PNG"),
    ],
)
def test_damage_is_refused(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_cifar10(folder, "test")


def test_a_strip_of_another_width_is_refused(folder: Path) -> None:
    Image.fromarray(np.zeros((ROWS, 1023, 3), np.uint8)).save(folder / "test_batch.png")
    with pytest.raises(DataError, match="1023 pixels wide and 4 high; expected 1024"):
        read_cifar10(folder, "test")


@pytest.mark.parametrize("rows", [10_001, 100_000, 200_000])
def test_a_strip_of_too_many_rows_is_refused_by_its_head(folder: Path, rows: int) -> None:
    """Two of them are what Pillow warns of, or refuses, as a decompression bomb."""
    path = folder / "test_batch.png"
    content = bytearray(path.read_bytes())
    content[20:24] = struct.pack(">I", rows)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"at most 10000 high|decompression bomb"):
        read_cifar10(folder, "test")


def test_a_missing_strip_is_named(folder: Path) -> None:
    (folder / "data_batch_3.png").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.png"):
        read_cifar10(folder, "train")
