"""Pictures in files, or in stretches of a tar, decoded when they are asked for."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final, final

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from prn_guard.errors import DataError
from training.datasets.fitting import (
    LARGEST_PIXEL_COUNT,
    Fitting,
    Shape,
    check_fit,
    draw_places,
    fit,
    to_images,
)
from training.datasets.pictures import check_indices, check_labels

# Named formats only: Pillow's full list holds some that start other programs (EPS).
FORMATS: Final = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# What an opaque picture's mode is read as; the inverted inks of CMYK are Pillow's to convert.
GRAY_MODES: Final = frozenset({"1", "L"})
COLOR_MODES: Final = frozenset({"RGB", "P", "CMYK", "YCbCr"})


@dataclass(frozen=True)
class PictureFile:
    """Where the bytes of one picture stand.

    Args:
        name: how messages call it.
        path: the file, or the tar that holds it.
        offset: first byte.
        length: number of bytes; None for all that follow.
    """

    name: str
    path: Path
    offset: int = 0
    length: int | None = None


@final
class FilePictures:
    """Pictures decoded on demand; safe to read from several threads.

    Each read opens its file anew, so nothing is shared between threads or processes. The first
    picture is decoded at once, so that a set that does not fit fails before any work is done.

    Args:
        files: the pictures.
        labels: `(N,)` int64.
        class_names: one name per class.
        size: `(C, H, W)` that the target takes; None takes the first picture's.
        resize: length that the shorter side is scaled to before cutting; None leaves the scale.

    Raises:
        DataError: labels and files do not belong together, or the first picture does not fit.
    """

    def __init__(
        self,
        files: Sequence[PictureFile],
        labels: Tensor,
        class_names: tuple[str, ...],
        *,
        size: Shape | None = None,
        resize: int | None = None,
    ) -> None:
        check_labels(labels, len(files), class_names)
        self._files = tuple(files)
        self._labels = labels
        self._class_names = class_names
        first = decode(self._files[0])
        if size is None:
            channels, height, width = first.shape
            side = min(height, width) if resize is None else resize
            size = (channels, side, side)
        self._fitting = Fitting(size, resize)
        check_fit((first.shape[0], first.shape[1], first.shape[2]), self._fitting, files[0].name)

    @property
    def shape(self) -> Shape:
        """`(C, H, W)` of every picture."""
        return self._fitting.size

    @property
    def device(self) -> torch.device:
        """Decoded pictures are on the CPU."""
        return torch.device("cpu")

    @property
    def labels(self) -> Tensor:
        """Class indices `(N,)` int64."""
        return self._labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, by index."""
        return self._class_names

    def __len__(self) -> int:
        return len(self._files)

    def batch(self, indices: Tensor, *, crops: torch.Generator | None = None) -> Tensor:
        """Read pictures as `Pictures.batch` says: `(B, C, H, W)` float32 in [0, 1].

        Raises:
            DataError: a picture is missing, damaged, or does not fit; the message names it.
        """
        check_indices(indices, len(self))
        files = [self._files[index] for index in indices.tolist()]
        places = draw_places(len(files), crops)
        with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1)) as pool:
            return to_images(torch.stack(list(pool.map(self._read, files, places))))

    def _read(self, file: PictureFile, place: int) -> Tensor:
        pixels = decode(file)
        check_fit((pixels.shape[0], pixels.shape[1], pixels.shape[2]), self._fitting, file.name)
        return fit(pixels, self._fitting, place)


def decode(file: PictureFile) -> Tensor:
    """Decode one picture to `(c, h, w)` uint8, `c` 1 for gray and 3 for colour.

    Orientation tags are applied, as the runtime applies them: the detector's threshold holds only
    for pictures that are read alike.

    Raises:
        DataError: missing, damaged, too large, of more than 8 bits, or with transparency.
    """
    content = _read_bytes(file)
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as picture:
            mode = _opaque_mode(picture, file.name)
            array = np.array(ImageOps.exif_transpose(picture).convert(mode))
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            f"{file.name} is none of {', '.join(FORMATS)}. Convert, replace or remove it."
        ) from error
    except Exception as error:  # decoders answer damaged bytes with whatever they stumble over
        raise DataError(
            f"{file.name} cannot be decoded: {error or type(error).__name__}. It is damaged; "
            "replace or remove it."
        ) from error
    pixels = torch.from_numpy(array)
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _read_bytes(file: PictureFile) -> bytes:
    try:
        with file.path.open("rb") as stream:
            stream.seek(file.offset)
            content = stream.read() if file.length is None else stream.read(file.length)
    except OSError as error:
        raise DataError(
            f"{file.name} cannot be read: {error}. Was {file.path} moved or changed since the set "
            "was opened?"
        ) from error
    if not content or (file.length is not None and len(content) < file.length):
        raise DataError(
            f"{file.name} ends after {len(content)} bytes: it is empty or cut short. Replace or "
            "remove it."
        )
    return content


def _opaque_mode(picture: Image.Image, name: str) -> str:
    height, width = picture.height, picture.width
    if height * width > LARGEST_PIXEL_COUNT:
        raise DataError(
            f"{name} is {height}x{width} (height x width), more than {LARGEST_PIXEL_COUNT} pixels. "
            "Scale it down first."
        )
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        raise DataError(
            f"{name} has transparency (mode {picture.mode}); expected opaque gray or RGB pixels. "
            "Flatten it onto the background that the classifier sees in service."
        )
    if picture.mode in GRAY_MODES:
        return "L"
    if picture.mode in COLOR_MODES:
        return "RGB"
    raise DataError(
        f"{name} has Pillow mode {picture.mode}; expected 8-bit gray or RGB. Convert it first, "
        "with the scaling to 0..255 that the classifier was trained on."
    )
