"""HTTP connections of uvicorn that cost an idle or hostile client nothing for only so long.

uvicorn times connections between requests only. Here a request's head has to arrive in time and
within a size, an answer has to be taken in time, and there are so many connections at most. Bodies
are timed and counted by `bodies`.
"""

import asyncio
import json
from typing import Any, Final, final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of a request's line and headers, of trailers, or of a chunk's extensions."""
_PHRASES: Final = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


@final
class BoundedConnection(HttpToolsProtocol):
    """One connection.

    Args:
        header_timeout: seconds in which a request's head must arrive once the connection is open or
            its first byte came; and in which an answer must be taken.
        max_connections: open at a time; further ones are answered with 503.
        arguments: uvicorn's own.
    """

    def __init__(self, *, header_timeout: float, max_connections: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._seconds, self._most = header_timeout, max_connections
        self._head_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None
        self._unparsed = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        if len(self.connections) > self._most:
            self._refuse(503, "The server has as many connections as it takes.")
        else:
            self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop_timing_head()
        self._stop_timing_answer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""
        self._unparsed += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unparsed > MAX_HEAD_BYTES:
            if self._between_requests:
                self._refuse(431, f"The request's head is larger than {MAX_HEAD_BYTES} bytes.")
            else:
                self.transport.abort()
        elif self._between_requests and self._head_timer is None:
            self._time_head()

    def send_400_response(self, msg: str) -> None:
        """What arrived is no HTTP."""
        self._refuse(400, msg)

    def on_headers_complete(self) -> None:
        """A request's head is there."""
        self._stop_timing_head()
        self._unparsed = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a request's body is there."""
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there."""
        self._unparsed = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is on its way; what the client does not take is thrown away in time."""
        if self.transport.is_closing():
            self._time_answer()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client does not take its answer."""
        super().pause_writing()
        self._time_answer()

    def resume_writing(self) -> None:
        """It takes it again."""
        self._stop_timing_answer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """No further request has come; nor is what is left of the last answer taken."""
        self.transport.abort()

    @property
    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _time_head(self) -> None:
        self._stop_timing_head()
        self._head_timer = self.loop.call_later(self._seconds, self._head_is_late)

    def _stop_timing_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _time_answer(self) -> None:
        self._stop_timing_answer()
        self._answer_timer = self.loop.call_later(self._seconds, self.transport.abort)

    def _stop_timing_answer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._between_requests and not self.transport.is_closing():
            self._refuse(408, f"The request did not arrive within {self._seconds:g} seconds.")

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is no request that the application could answer, and close."""
        content = json.dumps({"error": message}).encode()
        retry = "retry-after: 1\r\n" if status == 503 else ""
        head = (
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\n{retry}connection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + content)
        self.transport.close()
        self._time_answer()
