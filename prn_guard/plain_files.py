"""Reading files that somebody else may have put there: plain files only, and never too much."""

import io
import os
import stat
from pathlib import Path
from typing import Final

from prn_guard.errors import ArtifactError

# Without O_NONBLOCK, opening a pipe waits for whoever may write to it. Windows lacks the flag.
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_plain(path: Path) -> io.BufferedReader:
    """Open a regular file for reading; a pipe, folder or device is refused and never waited for.

    Raises:
        ArtifactError: `path` is missing, is no regular file, or cannot be opened.
    """
    try:
        handle = os.open(path, _FLAGS)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path} is missing. Is this the folder that the command before this one wrote?"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ArtifactError(
            f"{path} cannot be read: {error}. Restore it, or check its permissions."
        ) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ArtifactError(f"{path} is no plain file. Put the file itself there.")
    return os.fdopen(handle, "rb")


def read_bounded(path: Path, limit: int) -> bytes:
    """The whole of a regular file of at most `limit` bytes.

    Raises:
        ArtifactError: as for `open_plain`, or the file is larger; no more is read then.
    """
    with open_plain(path) as stream:
        try:
            content = stream.read(limit + 1)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error}. Restore it.") from error
    if len(content) > limit:
        raise ArtifactError(
            f"{path} is larger than {limit} bytes, the most that is read. Is it the right file?"
        )
    return content
