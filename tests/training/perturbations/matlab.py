"""MATLAB's version 7.3: HDF5 behind a text of 512 bytes, axes the other way round."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray


def save_as_matlab_7_3(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as MATLAB's `save -v7.3` does."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = np.asarray(array).T
            file[name].attrs["MATLAB_class"] = np.bytes_("single")
    with path.open("rb+") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(512))
