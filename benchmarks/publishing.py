"""What result files state of their origin, and blocks of pages that are written from them."""

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from prn_guard.errors import DataError
from prn_guard.files import write_bytes

ROOT: Final = Path(__file__).resolve().parent.parent


def commit() -> str:
    """What was measured: the short hash, with a mark where files differ from it."""
    return subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    """A table as markdown, its first `left` columns flush left, the others flush right."""
    lines = [columns, ["---" if place < left else "---:" for place in range(len(columns))], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def marks(name: str) -> tuple[str, str]:
    """The lines between which the figures of `benchmarks/<name>.py` stand in a page."""
    return (
        f"<!-- {name} figures: written by benchmarks/{name}.py -->\n",
        f"<!-- end of {name} figures -->\n",
    )


def block(page: Path, name: str) -> str:
    """What stands between the marks of `name` in `page`.

    Raises:
        DataError: the page has no such marks.
    """
    begin, end = marks(name)
    _, found_begin, rest = page.read_text(encoding="utf-8").partition(begin)
    shown, found_end, _ = rest.partition(end)
    if not (found_begin and found_end):
        raise DataError(f"{page} has no lines {begin.strip()} and {end.strip()}. Put them in.")
    return shown


def publish(page: Path, name: str, text: str) -> None:
    """Write `text` between the marks of `name` in `page`.

    Raises:
        DataError: the page has no such marks.
    """
    begin, end = marks(name)
    old = f"{begin}{block(page, name)}{end}"
    whole = page.read_text(encoding="utf-8")
    write_bytes(page, whole.replace(old, f"{begin}{text}{end}").encode())
