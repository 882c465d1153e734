"""Folders with one subfolder per class."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prn_guard.errors import DataError
from training.datasets.folders import read_class_folder


def _picture(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), level, dtype=np.uint8)).save(path)


def test_sorted_names_are_the_classes_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/b.PNG", "cat/deep/er/a.jpg", "ant/x.bmp"):
        _picture(tmp_path / name)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"\x00")
    (tmp_path / "cat" / "._b.png").write_bytes(b"\x00")
    files, labels, names = read_class_folder(tmp_path)
    assert names == ("ant", "cat", "dog")
    found = [str(file.path.relative_to(tmp_path)) for file in files]
    assert found == ["ant/x.bmp", "cat/b.PNG", "cat/deep/er/a.jpg", "dog/1.png"]
    assert labels.tolist() == [0, 1, 1, 2]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no subfolders.*idx files.*labels\.csv"):
        read_class_folder(tmp_path)


def test_a_class_without_pictures_is_refused_by_name(tmp_path: Path) -> None:
    _picture(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "a.txt").write_text("no picture")
    with pytest.raises(DataError, match="dog holds no pictures"):
        read_class_folder(tmp_path)


def test_splits_are_not_taken_for_classes(tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "val/cat/a.png"):
        _picture(tmp_path / name)
    with pytest.raises(DataError, match=r"train, val, which look like splits.*/train"):
        read_class_folder(tmp_path)
    _picture(tmp_path / "bus" / "a.png")
    assert read_class_folder(tmp_path)[2] == ("bus", "train", "val")
