"""Reading a request's body: bounded in bytes, in time, and over all requests together."""

import asyncio
import re
from typing import Final, final

from starlette.types import Receive

from prn_guard.serve.errors import (
    DisconnectedError,
    MalformedError,
    QueueFullError,
    SlowClientError,
    TooLargeError,
)

_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_LINGER_SECONDS: Final = 2.0


@final
class Budget:
    """Bytes of bodies that all requests may hold at a time.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def take(self, count: int) -> None:
        """Hold so many bytes more.

        Raises:
            QueueFullError: there is no room for them now.
        """
        if self.held + count > self._most:
            raise QueueFullError(
                f"The server holds {self.held} bytes of requests already, of at most "
                f"{self._most}. Send the request again later."
            )
        self.held += count


@final
class Body:
    """One request's body.

    Args:
        receive: ASGI's.
        length: the `Content-Length` header.
        chunked: whether there is a `Transfer-Encoding` header.
        limit: most bytes of it.
        seconds: in which all of it must arrive.
        budget: shared by all requests.
    """

    def __init__(
        self,
        receive: Receive,
        *,
        length: str | None,
        chunked: bool,
        limit: int,
        seconds: float,
        budget: Budget,
    ) -> None:
        self._receive, self._budget = receive, budget
        self._length, self._limit, self._seconds = length, limit, seconds
        self._held = 0
        self.unread = chunked or (length is not None and length.strip() != "0")
        """Whether some of it may still arrive."""

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            TooLargeError: more bytes than may be; known as soon as they are announced or arrive.
            SlowClientError: it took too long.
            QueueFullError: other requests hold too much already.
            DisconnectedError: the client went away.
        """
        self._check_length()
        parts = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                while self.unread:
                    piece = await self._piece()
                    self._take(len(parts) + len(piece))
                    parts += piece
        except TimeoutError as error:
            raise SlowClientError(
                f"The request's body did not arrive within {self._seconds:g} seconds."
            ) from error
        return bytes(parts)

    async def gone(self) -> None:
        """Return once the client has gone away; to be called when the body is read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def drain(self) -> None:
        """Read on for a moment and forget it, so that a client that still sends sees its answer.

        A connection that is closed while bytes arrive is reset, and the answer lost with it.
        """
        discarded = 0
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while self.unread and discarded < 2 * self._limit:
                    discarded += len(await self._piece())
        except (TimeoutError, DisconnectedError):
            pass

    def release(self) -> None:
        """Give the bytes back to the budget."""
        self._budget.held -= self._held
        self._held = 0

    async def _piece(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.unread = False
            raise DisconnectedError("The client went away.")
        self.unread = message.get("more_body", False)
        return bytes(message.get("body", b""))

    def _check_length(self) -> None:
        if self._length is None:
            return
        if not _LENGTH.fullmatch(self._length.strip()):
            raise MalformedError("Content-Length must be a whole number.")
        if int(self._length) > self._limit:
            raise self._too_large()

    def _take(self, count: int) -> None:
        if count > self._limit:
            raise self._too_large()
        self._budget.take(count - self._held)
        self._held = count

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"The request's body is larger than {self._limit} bytes.")
