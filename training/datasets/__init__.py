"""Labelled pictures for training and evaluation: Fashion-MNIST, idx files, folders and tars."""

from training.datasets.identity import (
    NamedPictures,
    check_other_pictures,
    check_same_classes,
    digest_of,
)
from training.datasets.idx import Split
from training.datasets.loading import load_pictures
from training.datasets.memory import batch_for, held_in_memory, on_device
from training.datasets.picture_files import FilePictures
from training.datasets.pictures import (
    ArrayPictures,
    Pictures,
    Subset,
    batches,
    even_positions,
    evenly_spaced,
)

__all__ = [
    "ArrayPictures",
    "FilePictures",
    "NamedPictures",
    "Pictures",
    "Split",
    "Subset",
    "batch_for",
    "batches",
    "check_other_pictures",
    "check_same_classes",
    "digest_of",
    "even_positions",
    "evenly_spaced",
    "held_in_memory",
    "load_pictures",
    "on_device",
]
