"""Perturbation files of every form that is read, and what they hold."""

import io
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.io import savemat
from torch import nn

from tests.training.perturbations.matlab import save_as_matlab_7_3

SHAPE = (3, 10, 12)
Array = NDArray[np.float32]


def write_safetensors(path: Path, array: Array) -> None:
    save_file({"any name": torch.from_numpy(array)}, path)


def write_hdf5(path: Path, array: Array, name: str = "deep/inside/r") -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=array, compression="gzip", chunks=True)
        file.attrs["epsilon"] = 10
        file["a word"] = "text"


WRITERS: dict[str, Callable[[Path, Array], None]] = {
    "one.npy": np.save,
    "one.NPY": lambda path, array: path.write_bytes(npy_bytes(array)),
    "one.npz": lambda path, array: np.savez(path, delta=array),
    "named.npz": lambda path, array: np.savez(path, perturbations=array, other=np.zeros(3)),
    "one.safetensors": write_safetensors,
    "one.pt": lambda path, array: torch.save(torch.from_numpy(array), path),
    "one.pth": lambda path, array: torch.save({"uap": torch.from_numpy(array)}, path),
    "compressed.npz": lambda path, array: np.savez_compressed(path, delta=array),
    "two.safetensors": lambda path, array: save_file(
        {"perturbations": torch.from_numpy(array), "other": torch.zeros(3)}, path
    ),
    "one.mat": lambda path, array: savemat(path, {"r": array}),
    "compressed.mat": lambda path, array: savemat(path, {"r": array}, do_compression=True),
    "7.3.mat": lambda path, array: save_as_matlab_7_3(path, {"r": array}),
    "one.h5": write_hdf5,
    "one.hdf5": write_hdf5,
    "big-endian.npy": lambda path, array: np.save(path, array.astype(">f4")),
    "fortran.npy": lambda path, array: np.save(path, np.asfortranarray(array)),
    "parameter.pth": lambda path, array: torch.save(nn.Parameter(torch.from_numpy(array)), path),
}


def npy_bytes(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
