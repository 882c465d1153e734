"""A result file whose parts are measured once, and written as soon as they are."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from prn_guard.errors import ArtifactError
from prn_guard.files import read_json, write_json


@final
class ResultFile:
    """Measured parts, as plain JSON values, in sections that may lie in each other.

    Args:
        path: of the file; one that holds results of the same request is gone on with, one of
            another request is replaced at the first new part.
        request: all that the parts depend on.

    Raises:
        ArtifactError: `path` exists and is no result file.
    """

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self._path = path
        self.content: dict[str, Any] = {"request": dict(request)}
        before = earlier_results(path)
        if before is not None and before["request"] == request:
            self.content = before

    def part(
        self, name: str, measure: Callable[[], Mapping[str, Any]], *, within: tuple[str, ...] = ()
    ) -> None:
        """Measure `name` in the section `within`, unless an interrupted run did."""
        section = self.content
        for key in within:
            section = section.setdefault(key, {})
        if name in section:
            return
        begin = time.monotonic()
        measured = dict(measure())
        section[name] = measured | {"seconds": round(time.monotonic() - begin, 1)}
        write_json(self._path, self.content)

    def state(self, name: str, value: Any, *, within: tuple[str, ...] = ()) -> None:
        """Write down what is known without measuring; what was there before is replaced."""
        section = self.content
        for key in within:
            section = section.setdefault(key, {})
        section[name] = value
        write_json(self._path, self.content)


def earlier_results(path: Path) -> dict[str, Any] | None:
    """What an earlier run left at `path`; None where nothing is.

    Raises:
        ArtifactError: something is, but no results of a request.
    """
    if not path.exists():
        return None
    before = read_json(path)
    if not isinstance(before, dict) or "request" not in before:
        raise ArtifactError(
            f"{path} is no result file of this command. Choose another name, or move it away."
        )
    return before
