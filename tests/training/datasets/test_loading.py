"""What a name of pictures resolves to, and how it is held against the target."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prn_guard.errors import DataError, InvalidArgumentError
from training.datasets import load_pictures


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    for prefix, count in (("train", 4), ("t10k", 2)):
        header = struct.pack(">4B3I", 0, 0, 8, 3, count, 8, 8)
        pixels = bytes(64 * count)
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels)
        labels = struct.pack(f">4BI{count}B", 0, 0, 8, 1, count, *range(count))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    return tmp_path


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    for label, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / name).mkdir()
        for index in range(4):
            level = 40 * label + index
            Image.fromarray(np.full((20, 24), level, np.uint8)).save(
                tmp_path / name / f"{index}.png"
            )
    return tmp_path


def test_an_idx_folder_gives_the_split_of_the_role(idx_folder: Path) -> None:
    train = load_pictures(str(idx_folder), split="train")
    assert (len(train), train.shape, train.class_names) == (4, (1, 8, 8), ("0", "1", "2", "3"))
    test = load_pictures(str(idx_folder), split="test", size=(3, 8, 8), class_count=10)
    assert (len(test), test.shape, len(test.class_names)) == (2, (3, 8, 8), 10)
    assert load_pictures(str(idx_folder), split="test", resize=16).shape == (1, 16, 16)


def test_a_class_folder_gives_its_pictures(class_folder: Path) -> None:
    pictures = load_pictures(str(class_folder), split="test", size=(3, 16, 16), class_count=3)
    assert pictures.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    levels = pictures.batch(torch.tensor([0, 5, 11]))
    expected = torch.tensor([0, 41, 83], dtype=torch.float32) / 255
    assert torch.equal(levels, expected.reshape(3, 1, 1, 1).expand(3, 3, 16, 16))


def test_a_limit_is_spread_over_the_classes(class_folder: Path) -> None:
    pictures = load_pictures(str(class_folder), split="test", limit=6)
    assert pictures.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(load_pictures(str(class_folder), split="test", limit=100)) == 12


def test_classes_are_held_against_the_target(class_folder: Path, idx_folder: Path) -> None:
    assert class_folder == idx_folder
    with pytest.raises(DataError, match="4 classes, but the target answers with 3"):
        load_pictures(str(idx_folder), split="train", class_count=3)
    for path in idx_folder.glob("*-ubyte"):
        path.unlink()
    with pytest.raises(DataError, match="3 classes, but the target answers with 10"):
        load_pictures(str(class_folder), split="train", class_count=10)


def test_misfits_are_refused_with_what_to_do(class_folder: Path) -> None:
    with pytest.raises(DataError, match="--resize 28"):
        load_pictures(str(class_folder), split="test", size=(1, 28, 28))
    with pytest.raises(DataError, match=r"1\.5 times"):
        load_pictures(str(class_folder), split="test", size=(1, 12, 12))
    resized = load_pictures(str(class_folder), split="test", size=(1, 28, 28), resize=28)
    assert resized.shape == (1, 28, 28)


@pytest.mark.parametrize("spec", ["nowhere", "cifar-10", "fashion_mnist", "no/such.tar"])
def test_what_is_nowhere_is_refused_with_the_choices(spec: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder.*fashion-mnist:test.*labels\.csv"):
        load_pictures(str(tmp_path / spec), split="test")


@pytest.mark.parametrize(
    ("spec", "limit", "class_count", "message"),
    [
        ("fashion-mnist:val", None, None, "expected one of train, test"),
        ("", None, None, "No pictures are named"),
        ("fashion-mnist", 0, None, "limit is 0"),
        ("fashion-mnist", None, 1, "class_count is 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    spec: str, limit: int | None, class_count: int | None, message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        load_pictures(spec, split="test", limit=limit, class_count=class_count)
