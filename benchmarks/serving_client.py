"""A cheap HTTP client: requests are bytes made before, connections stay, one request at a time.

On a machine whose cores the server needs too, what the client costs is taken from the server.
"""

import asyncio
import json
import socket
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length: "
SEND_BUFFER: Final = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; status 0 if it closed the connection."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """A header's text."""
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            found, _, text = line.partition(":")
            if found.lower() == name.lower():
                return text.strip()
        return None


@final
class Connection(asyncio.Protocol):
    """One connection that stays."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._waiting: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: Any) -> None:
        """Make room for a whole request, so that sending it is one call."""
        self._transport = transport
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def connection_lost(self, exc: Exception | None) -> None:
        """Answer with status 0 whoever waits."""
        del exc
        self.closed = True
        self._settle(Answer(0, bytes(self._received), b""))

    def data_received(self, data: bytes) -> None:
        """Take the answer once it is whole."""
        self._received += data
        end = self._received.find(HEAD_END)
        if end < 0:
            return
        head = bytes(self._received[:end])
        at = head.lower().find(_LENGTH)
        length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        whole = end + len(HEAD_END) + length
        if len(self._received) >= whole:
            body = bytes(self._received[end + len(HEAD_END) : whole])
            del self._received[:whole]
            self._settle(Answer(int(head[9:12]), head, body))

    async def ask(self, request: bytes) -> Answer:
        """Send a whole request, and wait for its answer."""
        if self.closed or self._transport is None:
            return Answer(0, b"", b"")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _settle(self, answer: Answer) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)


async def connect(port: int) -> Connection:
    """A connection to a server on this machine."""
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection, "127.0.0.1", port
    )
    return connection


def http(path: str, body: bytes = b"", *, method: str = "POST", **headers: object) -> bytes:
    """The bytes of a request; underscores in headers' names stand for hyphens."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    lines = [
        f"{name}: {text}"
        for name, text in ({"Host": "localhost", "Content-Length": len(body)} | named).items()
    ]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body


def infer_request(
    model: str, pictures: npt.NDArray[Any], *, name: str = "image", **more: Any
) -> bytes:
    """An infer request with the binary extension, which asks for binary outputs.

    Args:
        model: its name.
        pictures: `(N, ...)` uint8 or float32.
        name: the tensor's.
        more: further members of the JSON.
    """
    tensor = {
        "name": name,
        "shape": list(pictures.shape),
        "datatype": "UINT8" if pictures.dtype == np.uint8 else "FP32",
        "parameters": {"binary_data_size": pictures.nbytes},
    }
    content = {"inputs": [tensor], "parameters": {"binary_data_output": True}, **more}
    text = json.dumps(content).encode()
    body = text + pictures.tobytes()
    return http(f"/v2/models/{model}/infer", body, Inference_Header_Content_Length=len(text))


_TYPES: Final = {"FP32": "<f4", "INT64": "<i8", "BOOL": "?"}


def outputs_of(answer: Answer) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an infer response whose outputs are all binary."""
    length = int(answer.header("inference-header-content-length") or 0)
    found, at = {}, length
    for output in json.loads(answer.body[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        values = np.frombuffer(answer.body[at : at + size], _TYPES[output["datatype"]])
        found[output["name"]] = values.reshape(output["shape"])
        at += size
    return found
