"""JSON from outside: one meaning or none.

Two readers may differ on a key that stands twice, on NaN and on numbers beyond float64, and deep
nesting exhausts the stack of either.
"""

import json
import math
from pathlib import Path
from typing import Any, Final

from prn_guard.errors import ArtifactError

MAX_DEPTH: Final = 32
"""Arrays and objects inside each other; a manifest has four."""


def parse_json(content: bytes, path: Path) -> Any:
    """Parse UTF-8 JSON.

    Args:
        content: the text; the caller bounds its length.
        path: the file it came from, for messages.

    Raises:
        ArtifactError: no JSON, a key twice in one object, a number that is not finite or has
            thousands of digits, or nesting deeper than `MAX_DEPTH`.
    """
    try:
        parsed = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path} cannot be read as JSON: {error}. Restore it, or write it anew."
        ) from error
    if _deeper_than(parsed, MAX_DEPTH):
        raise ArtifactError(
            f"{path} nests deeper than {MAX_DEPTH} levels, which nothing that this project writes "
            "does. Restore it, or write it anew."
        )
    return parsed


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"the key {name[:100]!r} stands twice in one object")
        content[name] = value
    return content


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:100]} is no finite number")
    return value


def _deeper_than(parsed: Any, limit: int) -> bool:
    level = [parsed]
    for _ in range(limit + 1):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return bool(level)
