"""Reading one array from the files that perturbations are kept in; nothing is unpickled.

What a file declares is checked against `LARGEST_BYTES` before the values are read, because all of
these forms can promise more than they hold, and some are compressed.
"""

import zipfile
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prn_guard.errors import DataError

LARGEST_BYTES: Final = 2**30
"""1,700 perturbations of 3x224x224 float32."""
USUAL_KEY: Final = "perturbations"
KEY_OPTION: Final = "--perturbation-key"
NAMES_SHOWN: Final = 10
Array = NDArray[Any]


def read_array(path: Path, key: str | None) -> Tensor:
    """Read one array from a file, in the shape and type that it has there.

    Args:
        path: an existing `.npy`, `.npz`, `.mat`, `.h5`, `.hdf5`, `.pt`, `.pth` or `.safetensors`.
        key: name of the array, in an HDF5 file its path; None takes the one named
            `perturbations`, or else the only one.

    Returns:
        A dense tensor on the CPU, of numbers.

    Raises:
        DataError: another ending, no array of that name, too large, or no plain numbers.
        Exception: what the libraries raise on damaged files, of many classes.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise DataError(
            f"{path} cannot be read as perturbations: the suffix {path.suffix!r} is not known. "
            f"Give one of {', '.join(READERS)}."
        )
    _check_bytes(path.stat().st_size, path)
    found = READERS[suffix](path, key)
    array = found.detach() if isinstance(found, Tensor) else _as_tensor(found, path)
    if array.layout != torch.strided or array.is_quantized or array.is_meta or array.is_complex():
        raise DataError(
            f"{path} is refused: its array is {array.dtype}, {array.layout}, on "
            f"{array.device.type}; expected a dense one of real numbers. Save it as such."
        )
    # A tensor may be expanded from a few stored values.
    _check_bytes(array.numel() * array.element_size(), path)
    return array


def _read_safetensors(path: Path, key: str | None) -> Tensor:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stored:
        found: Tensor = stored.get_tensor(_choose(list(stored.keys()), key, path))
        return found


def _read_npy(path: Path, key: str | None) -> Array:
    _check_unnamed(key, path)
    # Opened here, because NumPy leaves the file open where it is damaged.
    with path.open("rb") as stream:
        found: Array = np.load(stream, allow_pickle=False)
        return found


def _read_npz(path: Path, key: str | None) -> Array:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        name = _choose(list(archive.files), key, path)
        stored = {one.filename: one.file_size for one in archive.zip.infolist()}
        _check_bytes(stored.get(f"{name}.npy", stored.get(name, 0)), path)
        found: Array = archive[name]
        return found


def _read_torch(path: Path, key: str | None) -> Tensor:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _check_bytes(sum(one.file_size for one in archive.infolist()), path)
    loaded = torch.load(path, weights_only=True, map_location="cpu")
    if isinstance(loaded, Tensor):
        _check_unnamed(key, path)
        return loaded
    if not isinstance(loaded, dict):
        raise DataError(
            f"{path} is refused: it holds a {type(loaded).__name__}; expected a tensor, or a "
            "dictionary of tensors. Save the tensor alone."
        )
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    return tensors[_choose(list(tensors), key, path)]


def _read_matlab(path: Path, key: str | None) -> Array:
    """MATLAB's own order of axes, whichever version wrote the file."""
    import h5py
    from scipy.io import loadmat, whosmat

    if h5py.is_hdf5(path):
        # Version 7.3 is HDF5, in which MATLAB's axes stand the other way round.
        return _read_hdf5(path, key).T
    with path.open("rb") as stream:
        shapes = {name: shape for name, shape, _ in whosmat(stream)}
        name = _choose(list(shapes), key, path)
        _check_bytes(prod(shapes[name]) * np.dtype(np.float64).itemsize, path)
        stream.seek(0)
        found: Array = loadmat(stream, variable_names=[name])[name]
        return found


def _read_hdf5(path: Path, key: str | None) -> Array:
    import h5py

    datasets: dict[str, Any] = {}

    def keep(name: str, one: Any) -> None:
        numbers = isinstance(one, h5py.Dataset) and one.dtype.kind in "iuf"
        # Virtual and external datasets take their values from other files.
        if numbers and not one.is_virtual and one.external is None:
            datasets[name] = one

    with h5py.File(path, "r") as file:
        file.visititems(keep)
        dataset = datasets[_choose(list(datasets), None if key is None else key.strip("/"), path)]
        _check_bytes(prod(dataset.shape) * dataset.dtype.itemsize, path)
        found: Array = dataset[()]
        return found


READERS: Final[dict[str, Callable[[Path, str | None], Tensor | Array]]] = {
    ".safetensors": _read_safetensors,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".mat": _read_matlab,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".pt": _read_torch,
    ".pth": _read_torch,
}


def _choose(names: Sequence[str], key: str | None, path: Path) -> str:
    """The array to take: the one asked for, the one of the usual name, or the only one."""
    if key is not None and key in names:
        return key
    if key is None and USUAL_KEY in names:
        return USUAL_KEY
    if key is None and len(names) == 1:
        return names[0]
    shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
    missing = (
        f"no single array and none named {USUAL_KEY!r}" if key is None else f"no array {key!r}"
    )
    raise DataError(
        f"{path} holds {missing}; its arrays are: {shown or 'none'}. State which by {KEY_OPTION}."
    )


def _check_unnamed(key: str | None, path: Path) -> None:
    if key is not None:
        raise DataError(f"{path} holds one array without a name, not {key!r}. Leave {KEY_OPTION}.")


def _check_bytes(size: int, path: Path) -> None:
    if size > LARGEST_BYTES:
        raise DataError(
            f"{path} is refused: it is, or unpacks to, {size / 2**30:.3g} GiB; perturbations take "
            f"at most {LARGEST_BYTES / 2**30:.3g}. Save some of them alone."
        )


def _as_tensor(array: Array, path: Path) -> Tensor:
    array = np.asarray(array)
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise DataError(
            f"{path} is refused: its array is of type {array.dtype}; expected real numbers of at "
            "most 64 bits. Convert it."
        )
    # torch knows neither the other byte order nor axes that run backwards.
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))
