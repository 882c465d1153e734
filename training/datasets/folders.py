"""Pictures sorted into one subfolder per class."""

from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from prn_guard.errors import DataError
from training.datasets.picture_files import PictureFile

SUFFIXES: Final = frozenset(
    {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_SPLITS = frozenset({"train", "test", "val", "valid", "validation"})


def read_class_folder(folder: Path) -> tuple[list[PictureFile], Tensor, tuple[str, ...]]:
    """List the pictures of a folder whose subfolders are the classes, by sorted name.

    Hidden files and folders, and files without a picture's suffix, are passed over. Inside a class
    folder pictures may stand at any depth.

    Returns:
        the files, their labels `(N,)` int64, and the class names.

    Raises:
        DataError: no subfolders, a class without pictures, or subfolders that are splits.
    """
    try:
        classes = sorted(
            child for child in folder.iterdir() if child.is_dir() and not _is_hidden(child)
        )
        _check_classes(folder, classes)
        found = [_pictures_in(child) for child in classes]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error}. Check its permissions.") from error
    for child, paths in zip(classes, found, strict=True):
        if not paths:
            raise DataError(
                f"{child} holds no pictures ({', '.join(sorted(SUFFIXES))}). Each subfolder is one "
                "class; fill it or remove it."
            )
    files = [PictureFile(str(path), path) for paths in found for path in paths]
    labels = torch.tensor([label for label, paths in enumerate(found) for _ in paths])
    return files, labels, tuple(child.name for child in classes)


def _check_classes(folder: Path, classes: list[Path]) -> None:
    if not classes:
        raise DataError(
            f"{folder} has no subfolders. Expected one per class with its pictures in it, or the "
            "idx files of an MNIST-like set. Pictures with a list of labels go into a tar with "
            "labels.csv."
        )
    names = {child.name.lower() for child in classes}
    if names <= _SPLITS:
        raise DataError(
            f"{folder} holds {', '.join(sorted(names))}, which look like splits, not classes. Name "
            f"one of them, as {folder / classes[0].name}."
        )


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not _is_hidden(path) and path.is_file()
    )


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")
