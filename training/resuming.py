"""Whose work it is that an interrupted run left behind."""

import shutil
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from prn_guard.errors import InvalidArgumentError
from prn_guard.files import read_json, write_json

REQUEST = "request.json"


def claim_folder(
    out: Path,
    request: Mapping[str, Any],
    what: str,
    *,
    ours: AbstractSet[str],
    restart: bool,
) -> None:
    """Take a folder for a request, which is written there: a new folder, or its own from before.

    Args:
        out: the folder.
        request: all that the result depends on, as plain JSON values.
        what: what the folder is for, for messages: "fit".
        ours: names of the files and folders that such work leaves.
        restart: throw away what an earlier run, of whatever request, left there.

    Raises:
        InvalidArgumentError: the folder holds other work of the kind, or other files.
    """
    path = out / REQUEST
    if restart and path.exists():
        _refuse_foreign(out, what, ours | {REQUEST})
        shutil.rmtree(out)
    if path.exists():
        check_same_request(read_json(path), request, out, f"a {what}")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidArgumentError(
            f"{out} exists and holds no {what}. Choose another --out, or empty it."
        )
    write_json(path, request)


def _refuse_foreign(out: Path, what: str, ours: AbstractSet[str]) -> None:
    # Hidden names are the partial files of a run that was killed.
    foreign = sorted(
        entry.name
        for entry in out.iterdir()
        if entry.name not in ours and not entry.name.startswith(".")
    )
    if foreign:
        raise InvalidArgumentError(
            f"{out} holds more than a {what} ({', '.join(foreign[:4])}), which --restart would "
            "delete too. Move that away, or choose another --out."
        )


def check_same_request(before: Any, now: Mapping[str, Any], out: Path, what: str) -> None:
    """Refuse to go on with work that belongs to another request.

    Args:
        before: the request that was recorded.
        now: the request of this run.
        out: where the work lies.
        what: what it is, for the message: "a fit".

    Raises:
        InvalidArgumentError: with everything that differs.
    """
    known = before if isinstance(before, dict) else {}
    changed = [
        f"{name} ({known.get(name)} there, {value} now)"
        for name, value in now.items()
        if known.get(name) != value
    ]
    if changed:
        raise InvalidArgumentError(
            f"{out} holds {what} with another {', '.join(changed)}. Choose another --out, or "
            "give --restart to throw that one away."
        )
