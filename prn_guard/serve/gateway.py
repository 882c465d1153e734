"""Around the whole REST application: permission, errors as JSON, headers, one line of log."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prn_guard.serve.bodies import Body, Budget
from prn_guard.serve.errors import MethodError, RequestError
from prn_guard.serve.logs import request_id
from prn_guard.serve.security import (
    OPEN_PATHS,
    SECURITY_HEADERS,
    TokenCheck,
    check_host,
    check_origin,
)

_SAFE: Final = frozenset({"GET", "HEAD"})
_HEADERS: Final = [
    (name.lower().encode(), text.encode()) for name, text in SECURITY_HEADERS.items()
]

_log: Final = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class Rules:
    """What the gateway enforces."""

    tokens: TokenCheck
    open_paths: frozenset[str]
    """The page's files, which need no token; the data that they ask for does."""
    loopback_host: str | None
    """Where only this machine may ask: what the server is bound to. None: any `Host` is taken."""
    max_body_bytes: int
    body_timeout: float
    budget: Budget


@final
class Gateway:
    """ASGI middleware; it answers whatever goes wrong inside, so that nothing escapes.

    Args:
        app: what it protects.
        rules: what it enforces.
        stopping: whether connections are to be closed after their answer.
        refused: told the outcome of each request that may not be asked.
    """

    def __init__(
        self,
        app: ASGIApp,
        rules: Rules,
        stopping: Callable[[], bool],
        refused: Callable[[str], None],
    ) -> None:
        self._app, self._rules = app, rules
        self._stopping, self._refused = stopping, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        started = perf_counter()
        headers = Headers(scope=scope)
        rules = self._rules
        body = Body(
            receive,
            length=headers.get("content-length"),
            chunked="transfer-encoding" in headers,
            limit=rules.max_body_bytes,
            seconds=rules.body_timeout,
            budget=rules.budget,
        )
        answer = Answer(send, request_id(headers.get("x-request-id")), body, self._stopping)
        state = scope.setdefault("state", {})
        state.update(request_id=answer.id, body=body, answer=answer)
        try:
            self._admit(scope, headers)
            await self._app(scope, receive, answer.send)
        except Exception as error:
            await answer.refuse(error)
        finally:
            body.release()
            _log_request(scope, answer, perf_counter() - started)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        try:
            self._check(scope, headers)
        except RequestError as error:
            self._refused(error.outcome)
            raise

    def _check(self, scope: Scope, headers: Headers) -> None:
        host, rules = headers.get("host"), self._rules
        if rules.loopback_host is not None:
            check_host(host, served=rules.loopback_host)
        if scope["method"] not in _SAFE:
            check_origin(headers.get("origin"), host)
        if scope["path"] not in OPEN_PATHS and scope["path"] not in rules.open_paths:
            rules.tokens.check(headers.get("authorization"))


@final
class Answer:
    """The response to one request, on its way out.

    Args:
        send: ASGI's.
        identity: the request's id.
        body: the request's.
        stopping: whether the connection is to be closed afterwards.
    """

    def __init__(self, send: Send, identity: str, body: Body, stopping: Callable[[], bool]) -> None:
        self._send, self._body, self._stopping = send, body, stopping
        self.id = identity
        self.status = 0
        self.error: str | None = None

    async def send(self, message: Message) -> None:
        """ASGI's `send`, with the headers of every answer added."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", []),
                *_HEADERS,
                (b"x-request-id", self.id.encode()),
                *([(b"connection", b"close")] if self._body.unread or self._stopping() else []),
            ]
        elif not message.get("more_body", False) and self._body.unread and self.status != 408:
            await self._send({**message, "more_body": True})
            await self._body.drain()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def refuse(self, error: Exception) -> None:
        """Answer with an error, once, and where nothing was answered yet.

        Raises:
            Exception: the error itself, after part of an answer: the client is to see it cut off.
        """
        if self.error is not None:
            return
        if not isinstance(error, RequestError):
            _log.error("a request failed", exc_info=error, extra={"request_id": self.id})
            error = RequestError("The server failed on this request. The log says why.")
        self.error = str(error)
        if self.status:  # the client sees an answer that ends too soon
            raise error
        content = json.dumps({"error": str(error)}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"cache-control", b"no-store"),
            *((name.encode(), text.encode()) for name, text in _extra_headers(error).items()),
        ]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": content, "more_body": False})


def _extra_headers(error: RequestError) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    if isinstance(error, MethodError) and error.allow:
        headers["allow"] = error.allow
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return headers


def _log_request(scope: Scope, answer: Answer, seconds: float) -> None:
    facts: dict[str, Any] = {
        "request_id": answer.id,
        "method": scope["method"],
        "path": scope["path"][:500],
        "status": answer.status,
        "seconds": round(seconds, 6),
    }
    if answer.error is not None:
        facts["reason"] = answer.error
    _log.info("request", extra=facts)
