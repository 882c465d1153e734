"""Labelled pictures for training and evaluation: Fashion-MNIST, idx files, folders and tars."""

from training.datasets.loading import load_pictures
from training.datasets.memory import held_in_memory
from training.datasets.picture_files import FilePictures
from training.datasets.pictures import ArrayPictures, Pictures, Subset, batches

__all__ = [
    "ArrayPictures",
    "FilePictures",
    "Pictures",
    "Subset",
    "batches",
    "held_in_memory",
    "load_pictures",
]
