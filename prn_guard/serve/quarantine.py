"""The quarantine: a folder of the pictures that were flagged last, for a person to look at.

Each picture is `flagged-<number>.png`, as the classifier saw it, and its facts are in
`flagged-<number>.json` beside it. Numbers go up and are never used twice while a folder has files,
so the oldest is told without a clock, and nothing in a name comes from a client.

A file is written under another name and renamed when it is whole, the picture first: where the
facts are, the picture is. Power lost in between may leave a picture without facts, or an empty
file; what is no whole pair is removed when the folder is opened next. Nothing is synchronised to
disk, which would take longer than classifying does.
"""

import fcntl
import io
import json
import os
import re
import stat
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from prn_guard.errors import InvalidArgumentError, StorageError

_LOCK: Final = ".lock"
_NAME: Final = re.compile(r"\.?flagged-([0-9]{12})\.(png|json)")
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_FASTEST: Final = 1
"""Level of zlib: files are a tenth larger than at the default level, made in less time."""


@final
class Quarantine:
    """Keeps flagged pictures in a folder of bounded size, the newest ones.

    Only one quarantine may have a folder open. `keep` blocks on the disk: call it in a thread.

    Args:
        folder: made where it is missing, its parents too, with permissions 0700.
        most_bytes: that all files in it may take together.

    Raises:
        InvalidArgumentError: `most_bytes` is below 1, or other users may enter the folder.
        StorageError: the folder cannot be made, read or written, or another server has it open.
    """

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        if most_bytes < 1:
            raise InvalidArgumentError(f"most_bytes is {most_bytes}; expected at least 1.")
        self._folder = folder
        self._most_bytes = most_bytes
        self._guard = threading.Lock()
        self._pairs: deque[tuple[int, int]] = deque()  # number and bytes, oldest first
        self._bytes = 0
        self._failures = 0
        self._handle = _open_folder(folder)
        try:
            self._lock = _lock(self._handle, folder)
        except BaseException:
            os.close(self._handle)
            raise
        try:
            self._next = self._take_stock()
            self._make_room(0)
        except OSError as error:
            self.close()
            raise StorageError(f"The quarantine folder {folder} fails: {error}.") from error

    def close(self) -> None:
        """Let go of the folder; its files stay. Nothing can be kept afterwards."""
        with self._guard:
            if self._handle >= 0:
                os.close(self._lock)
                os.close(self._handle)
                self._handle = -1

    @property
    def failures(self) -> int:
        """Pictures that could not be kept."""
        return self._failures

    @property
    def used_bytes(self) -> int:
        """What the kept pictures and their facts take together."""
        return self._bytes

    def keep(self, image: npt.NDArray[np.uint8], facts: Mapping[str, Any]) -> Path | None:
        """Write a picture and its facts, removing the oldest ones to stay within the bound.

        Args:
            image: `(H, W, C)` uint8 in 0..255, RGB or gray, at least one pixel.
            facts: what JSON can hold, e.g. score and time.

        Returns:
            The picture's file; None where the disk is full or fails, where picture and facts are
            larger than the bound, or after `close`. Then `failures` is one more, and nothing
            half-written is left.

        Raises:
            InvalidArgumentError: no such picture, or facts that JSON cannot hold.
        """
        picture, record = _png(image), _json(facts)
        size = len(picture) + len(record)
        with self._guard:
            if size > self._most_bytes or self._handle < 0:
                self._failures += 1
                return None
            number = self._next
            try:
                self._make_room(size)
                self._write(_file(number, "png"), picture)
                self._write(_file(number, "json"), record)
            except OSError:
                self._failures += 1
                self._remove(number)
                return None
            self._next += 1
            self._pairs.append((number, size))
            self._bytes += size
            return self._folder / _file(number, "png")

    def _take_stock(self) -> int:
        """Count what a server before this one kept, remove what is no whole pair; the next number.

        Files of other names are none of ours and stay.
        """
        sizes: dict[int, dict[str, int]] = {}
        with os.scandir(self._handle) as entries:
            for entry in entries:
                found = _NAME.fullmatch(entry.name)
                if found:
                    pair = sizes.setdefault(int(found[1]), {})
                    plain = entry.is_file(follow_symlinks=False)
                    pair[entry.name] = entry.stat(follow_symlinks=False).st_size if plain else 0
        for number in sorted(sizes):
            whole = {_file(number, "png"), _file(number, "json")}
            if sizes[number].keys() == whole and all(sizes[number].values()):
                size = sum(sizes[number].values())
                self._pairs.append((number, size))
                self._bytes += size
            else:
                self._remove(number)
        return max(sizes, default=-1) + 1

    def _make_room(self, size: int) -> None:
        while self._pairs and self._bytes + size > self._most_bytes:
            number, freed = self._pairs[0]
            for suffix in ("json", "png"):
                with suppress(FileNotFoundError):  # somebody took it away to look at it
                    os.unlink(_file(number, suffix), dir_fd=self._handle)
            self._pairs.popleft()
            self._bytes -= freed

    def _write(self, name: str, content: bytes) -> None:
        partial = f".{name}"
        handle = os.open(partial, _WRITE, _FILE_MODE, dir_fd=self._handle)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.rename(partial, name, src_dir_fd=self._handle, dst_dir_fd=self._handle)

    def _remove(self, number: int) -> None:
        for suffix in ("json", "png"):
            for name in (_file(number, suffix), f".{_file(number, suffix)}"):
                with suppress(OSError):
                    os.unlink(name, dir_fd=self._handle)


def _file(number: int, suffix: str) -> str:
    return f"flagged-{number:012d}.{suffix}"


def _open_folder(folder: Path) -> int:
    """Make the folder where it is missing; a handle, so that a renamed parent changes nothing."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=_FOLDER_MODE)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(
            f"The quarantine folder {folder} cannot be opened: {error}. Name another one."
        ) from error
    found = os.fstat(handle)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(handle)
        raise InvalidArgumentError(
            f"The quarantine folder {folder} is open to other users, and holds pictures that "
            "clients sent. Name a new folder inside it, or take their permissions away (chmod "
            "700)."
        )
    return handle


def _lock(handle: int, folder: Path) -> int:
    """Hold the folder for this process, until it ends or closes the returned handle."""
    try:
        lock = os.open(_LOCK, _WRITE, _FILE_MODE, dir_fd=handle)
    except OSError as error:
        raise StorageError(
            f"The quarantine folder {folder} cannot be written: {error}. Name another one."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StorageError(
            f"The quarantine folder {folder} is in use by another server. Give each its own."
        ) from error
    return lock


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in {1, 3} or not image.size:
        raise InvalidArgumentError(
            f"The picture is {image.dtype} {image.shape}; expected uint8 (H, W, 1 or 3)."
        )
    stream = io.BytesIO()
    pixels = image[..., 0] if image.shape[2] == 1 else image
    Image.fromarray(pixels).save(stream, "PNG", compress_level=_FASTEST)
    return stream.getvalue()


def _json(facts: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(dict(facts), allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"The facts of a picture are no JSON: {error}.") from error
