"""Pictures in an uncompressed tar with a `labels.csv`, read in place and never extracted."""

import csv
import io
import tarfile
from pathlib import Path, PurePosixPath
from typing import Final

import torch
from torch import Tensor

from prn_guard.errors import DataError
from training.datasets.picture_files import PictureFile

LABELS_FILE: Final = "labels.csv"
LARGEST_LABEL: Final = 999_999
_COLUMNS = ("file", "label")


def read_labelled_tar(path: Path) -> tuple[list[PictureFile], Tensor]:
    """List the pictures that the tar's `labels.csv` names.

    The table has the columns `file` and `label` (more are passed over); files are named relative
    to the table's own folder inside the tar.

    Returns:
        the files in the order of the table, and their labels `(N,)` int64.

    Raises:
        DataError: no readable uncompressed tar, no or several tables, or a row that does not name
            a picture inside the tar and a class index.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            members = {_plain(member.name): member for member in archive}
            table = _find_table(members, path)
            stream = archive.extractfile(members[table])
            content = b"" if stream is None else stream.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read as an uncompressed tar: {error}. Expected a folder, or a tar "
            f"with the pictures and {LABELS_FILE}; a compressed tar is unpacked to .tar first, a "
            "damaged one fetched again."
        ) from error
    rows = _read_rows(content, f"{path}:{table}")
    folder = PurePosixPath(table).parent
    files = [_locate(name, folder, members, path) for name, _ in rows]
    return files, torch.tensor([label for _, label in rows])


def _find_table(members: dict[str, tarfile.TarInfo], path: Path) -> str:
    tables = [
        name
        for name, member in members.items()
        if PurePosixPath(name).name == LABELS_FILE and member.isreg()
    ]
    if len(tables) != 1:
        raise DataError(
            f"{path} holds {len(tables)} files named {LABELS_FILE}; expected exactly one, with the "
            f"columns {' and '.join(_COLUMNS)}. Add it beside the pictures."
        )
    return tables[0]


def _read_rows(content: bytes, name: str) -> list[tuple[str, int]]:
    try:
        table = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        columns = table.fieldnames or []
        lines = [(row.get("file"), row.get("label")) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{name} cannot be read as CSV in UTF-8: {error}. Write it anew."
        ) from error
    if not set(_COLUMNS) <= set(columns):
        raise DataError(
            f"{name} has the columns {', '.join(columns) or 'none'}; expected "
            f"{' and '.join(_COLUMNS)} in its first line."
        )
    if not lines:
        raise DataError(f"{name} lists no pictures. Add one line per picture: file,label.")
    rows = [
        (file, _parse_label(label, number, name))
        for number, (file, label) in enumerate(lines, start=1)
        if file
    ]
    if len({file for file, _ in rows}) != len(lines):
        raise DataError(
            f"{name} has lines without a file, or lists a file twice. Expected each picture once."
        )
    return rows


def _parse_label(text: str | None, number: int, name: str) -> int:
    plain = (text or "").strip()
    # Length first: Python refuses to parse thousands of digits with an error of its own.
    if not (plain.isascii() and plain.isdigit() and len(plain) < 10) or int(plain) > LARGEST_LABEL:
        raise DataError(
            f"{name} gives picture {number} the label {text!r}; expected a class index, 0 to "
            f"{LARGEST_LABEL}."
        )
    return int(plain)


def _locate(
    name: str, folder: PurePosixPath, members: dict[str, tarfile.TarInfo], path: Path
) -> PictureFile:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(
            f"{path}:{LABELS_FILE} names {name!r}, which points outside the tar. Name files "
            "relative to the table, without '..'."
        )
    member = members.get(str(folder / relative))
    if member is None or not member.isreg() or member.issparse():
        what = "does not hold" if member is None else "holds no plain file"
        raise DataError(
            f"{path} {what} {name!r}, which its {LABELS_FILE} lists. Pack the picture or remove "
            "the line."
        )
    return PictureFile(f"{path}:{member.name}", path, member.offset_data, member.size)


def _plain(name: str) -> str:
    return str(PurePosixPath(name))
