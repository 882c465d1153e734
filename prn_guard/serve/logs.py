"""Structured logs: one JSON object a line on standard error, and request ids."""

import json
import logging
import re
import secrets
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO, final

_SANE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_RESERVED: Final = frozenset({"time", "level", "logger", "message", "error"})
LOGGER: Final = "prn_guard"
OTHERS: Final = ("uvicorn", "uvicorn.error", "asyncio", "grpc")


def request_id(wanted: str | None) -> str:
    """The client's own id where it is short and plain, else a new one."""
    if wanted is not None and _SANE.fullmatch(wanted):
        return wanted
    return secrets.token_hex(16)


@final
class JsonFormatter(logging.Formatter):
    """`time`, `level`, `logger`, `message`, whatever `extra` held, and `error` with a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; control characters and what is not ASCII are written as JSON escapes."""
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in _RESERVED:
                content[name] = value
        if record.exc_info:
            content["error"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str)


def configure(level: str, stream: TextIO | None = None) -> None:
    """Log this project from `level` on, and the libraries from warnings on, as JSON.

    Args:
        level: "debug", "info", "warning" or "error".
        stream: standard error where it is None.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in (LOGGER, *OTHERS):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level.upper() if name == LOGGER else logging.WARNING)


def started(settings: Mapping[str, Any]) -> None:
    """Log the settings that the server runs with; the caller has taken secrets out."""
    logging.getLogger(__name__).info("settings", extra={"settings": dict(settings)})
