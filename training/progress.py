"""Progress of long work: what is done, what is left and about how long.

On a terminal a bar; elsewhere (a log, a pipe) one plain line now and then.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from prn_guard import console

SECONDS_BETWEEN_LINES = 15.0


class Tracker(Protocol):
    """Told of every step."""

    def __call__(self, done: int, total: int, status: str = "") -> None:
        """Show that `done` of `total` steps are done."""
        ...


@contextmanager
def tracked(title: str) -> Iterator[Tracker]:
    """Show the progress of `title` while the block runs."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    with console.progress() as display:
        task = display.add_task(title, total=None, status="")

        def track(done: int, total: int, status: str = "") -> None:
            display.update(task, completed=done, total=total, status=status)

        yield track


def _lines(title: str) -> Tracker:
    begin = last = time.monotonic()
    first: int | None = None

    def track(done: int, total: int, status: str = "") -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first is None else first
        if now - last < SECONDS_BETWEEN_LINES and done < total:
            return
        last = now
        if done >= total:
            left = "done"
        elif done == first:
            left = "no telling how long"
        else:
            left = f"about {(now - begin) / (done - first) * (total - done):.0f} s left"
        sys.stderr.write(f"{title}: {done}/{total}, {left}{', ' if status else ''}{status}\n")
        sys.stderr.flush()

    return track
