"""Perturbations made elsewhere, checked for scale, layout and size before they are used."""

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from prn_guard.errors import DataError
from training.datasets.fitting import Shape

READERS = (".safetensors", ".npy", ".npz", ".pt", ".pth")


def load_perturbations(path: Path, shape: Shape) -> Tensor:
    """Read one or several universal perturbations.

    Args:
        path: `.safetensors`, `.npy`, `.npz` or `.pth`; an archive must hold one array, or name
            it `perturbations`. Nothing is unpickled.
        shape: `(C, H, W)` of the target's pictures.

    Returns:
        `(P, C, H, W)` float32, to be added to pixels in [0, 1].

    Raises:
        DataError: the file is missing, damaged or of another kind; values are not finite, or so
            large that they must be on the 0-255 scale; the shape is another, or channels last.
    """
    if not path.is_file():
        raise DataError(f"There is no perturbation file {path}. Check the path.")
    try:
        array = _read(path)
    except (OSError, ValueError, RuntimeError, SafetensorError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read as perturbations: {error}. Give one of {', '.join(READERS)}, "
            "whole and without pickled objects."
        ) from error
    except Exception as error:  # torch's restricted unpickler raises its own class
        raise DataError(
            f"{path} is refused: {error}. Save the tensor alone, or as .safetensors or .npy."
        ) from error
    return _check(array, path, shape)


def _read(path: Path) -> Tensor:
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _the_one(safetensors.torch.load_file(path), path)
    # Opened here, because NumPy leaves the file open where it is damaged.
    if suffix == ".npy":
        with path.open("rb") as stream:
            return torch.from_numpy(np.load(stream, allow_pickle=False))
    if suffix == ".npz":
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return _the_one({name: torch.from_numpy(archive[name]) for name in archive}, path)
    if suffix in {".pt", ".pth"}:
        loaded = torch.load(path, weights_only=True, map_location="cpu")
        return loaded if isinstance(loaded, Tensor) else _the_one(loaded, path)
    raise ValueError(f"the suffix {suffix!r} is not known")


def _the_one(tensors: Any, path: Path) -> Tensor:
    if isinstance(tensors, dict):
        named = tensors.get("perturbations")
        if isinstance(named, Tensor):
            return named
        found = [value for value in tensors.values() if isinstance(value, Tensor)]
        if len(found) == 1:
            return found[0]
    raise ValueError(f"{path.name} holds no single array and none named 'perturbations'")


def _check(array: Tensor, path: Path, shape: Shape) -> Tensor:
    if array.ndim == 3:
        array = array[None]
    if tuple(array.shape[1:]) != tuple(shape) or array.ndim != 4 or not len(array):
        channels_last = array.ndim == 4 and tuple(array.shape[1:]) == (*shape[1:], shape[0])
        hint = " They are channels last: move channels first." if channels_last else ""
        raise DataError(
            f"{path} holds perturbations of shape {tuple(array.shape)}; expected (channels, "
            f"height, width) = {tuple(shape)}, or a stack of them.{hint}"
        )
    if not array.is_floating_point():
        raise DataError(
            f"{path} holds {array.dtype}; expected floating-point values for pixels in [0, 1]. "
            "Divide 0-255 values by 255."
        )
    values = array.detach().float()
    if not bool(torch.isfinite(values).all()):
        raise DataError(f"{path} holds values that are not finite. Make the perturbation anew.")
    largest = float(values.abs().max())
    if largest > 1 or largest == 0:
        raise DataError(
            f"The largest value of {path} is {largest:.4g}; perturbations are added to pixels in "
            "[0, 1], so expected above 0 and at most 1. Divide 0-255 values by 255."
        )
    return values
