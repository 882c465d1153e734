"""Whose work it is that an interrupted run left behind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prn_guard.errors import InvalidArgumentError


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
