"""Tells another service, by HTTP POST, that the attack alarm was raised.

The request is made in a background task on asyncio's own streams, because a timeout then ends all
of it, name look-up and a server that answers byte by byte included. Redirects are not followed and
no proxy is used: the message goes to the address in the settings or nowhere. It is sent once; what
must not be missed is the metric and the log.
"""

import asyncio
import json
import logging
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final, final
from urllib.parse import urlsplit

from prn_guard.errors import InvalidArgumentError
from prn_guard.serve.alarm import AlarmState
from prn_guard.serve.metrics import Delivery
from prn_guard.version import __version__

_LOG: Final = logging.getLogger("prn_guard.serve.webhook")
_PRINTABLE: Final = re.compile(r"[!-~]+")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: [^\r\n]*)?\r?\n")
_MOST_PENDING: Final = 4
_MOST_STATUS_LINE: Final = 4096
_PORTS: Final = {"http": 80, "https": 443}


def alarm_message(state: AlarmState, *, model: str, time: str) -> dict[str, Any]:
    """What is sent when the alarm is raised.

    Args:
        state: of the alarm.
        model: the name under which the guard is served.
        time: by ISO 8601.
    """
    return {
        "event": "attack_alarm_raised",
        "text": (
            f"PRN-Guard: {model} is under attack, or sees other pictures than it was calibrated "
            f"on: {state.flagged_share:.1%} of the last {state.window} were flagged; clean "
            f"traffic explains at most {state.clean_share:.1%}."
        ),
        "model": model,
        "time": time,
        "alarm": asdict(state),
    }


@final
class Webhook:
    """Posts JSON to one address.

    Args:
        url: http or https, without user name and password. Its path may hold a secret, so that
            logs name the host only.
        timeout: seconds for the whole of one delivery.
        told: called with what became of each message.

    Raises:
        InvalidArgumentError: no such URL.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10.0,
        told: Callable[[Delivery], None] = lambda _: None,
    ) -> None:
        try:
            parts = urlsplit(url) if _PRINTABLE.fullmatch(url) else None
            port = parts.port if parts else None
        except ValueError:
            parts = port = None
        if (
            parts is None
            or parts.scheme not in _PORTS
            or not parts.hostname
            or parts.username is not None
            or parts.password is not None
        ):
            raise InvalidArgumentError(
                "The webhook's URL must begin with http:// or https:// and a host, have no user "
                "name in it, and hold printable ASCII only."
            )
        self._host = parts.hostname
        self._port = port or _PORTS[parts.scheme]
        self._authority = parts.netloc
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._timeout = timeout
        self._told = told
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, content: Mapping[str, Any]) -> None:
        """Start to post `content`, and return at once; needs a running event loop.

        Where four messages are on their way already, this one is dropped.
        """
        if len(self._tasks) >= _MOST_PENDING:
            _LOG.warning("webhook %s: too many messages on their way, one dropped", self._host)
            self._told("dropped")
            return
        body = json.dumps(dict(content), allow_nan=False).encode()
        task = asyncio.get_running_loop().create_task(self._deliver(body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait until every message is delivered or given up, at most the timeout."""
        await asyncio.gather(*self._tasks)

    async def _deliver(self, body: bytes) -> None:
        outcome: Delivery = "failed"
        try:
            async with asyncio.timeout(self._timeout):
                status = await self._post(body)
        except TimeoutError:
            _LOG.warning("webhook %s: no answer in %g s", self._host, self._timeout)
        except (OSError, ValueError, EOFError) as error:
            _LOG.warning("webhook %s: %s: %s", self._host, type(error).__name__, error)
        else:
            if 200 <= status < 300:
                outcome = "delivered"
            else:
                _LOG.warning("webhook %s: answered with status %d", self._host, status)
        self._told(outcome)

    async def _post(self, body: bytes) -> int:
        """Send the request; the answer's status."""
        reader, writer = await asyncio.open_connection(
            self._host, self._port, ssl=self._tls, limit=_MOST_STATUS_LINE
        )
        try:
            head = (
                f"POST {self._target} HTTP/1.1\r\n"
                f"Host: {self._authority}\r\n"
                f"User-Agent: prn-guard/{__version__}\r\n"
                "Content-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n"
                "Connection: close\r\n\r\n"
            )
            writer.write(head.encode("ascii") + body)
            await writer.drain()
            found = _STATUS.fullmatch(await reader.readline())
            if found is None:
                raise ValueError("the answer is not HTTP")
            return int(found[1])
        finally:
            # Not `close`, which over TLS waits up to half a minute for a server that says nothing.
            writer.transport.abort()
