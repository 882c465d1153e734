"""What clients do to a server, by accident or not; each returns what the server told them."""

import asyncio
import itertools
import json
import os
import socket
import struct
import zlib
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from benchmarks.serving_client import Answer, connect, http, infer_request
from benchmarks.serving_steady import MODEL, PICTURES

INFER: Final = f"/v2/models/{MODEL}/infer"
SIDE: Final = 10_000
MOST_CHUNKS: Final = 100_000


async def killed_in_its_body(port: int) -> list[str]:
    """Twenty clients whose connections are reset after half of their body."""
    whole = infer_request(MODEL, PICTURES[:1])
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(whole[:-90])
        await writer.drain()
        linger = struct.pack("ii", 1, 0)  # closing resets the connection
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
    return ["nothing: it was gone"]


async def slow(port: int) -> list[str]:
    """A body that comes byte by byte, without end in sight."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(http(INFER, Content_Length=5000))

    async def drip() -> None:
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    answer = await reader.read(65536)
    dripping.cancel()
    writer.close()
    return [_status_of(answer)]


async def garbage(port: int) -> list[str]:
    """20 MB of random bytes, for either kind of request."""
    content = os.urandom(20 << 20)
    return await _told(port, (http(path, content) for path in (INFER, "/v1/classify")))


async def much_json(port: int) -> list[str]:
    """30 MB of JSON that nests, which is the slowest to read."""
    return await _told(port, [http(INFER, nested_json(30_000_000))])


async def most_json(port: int) -> list[str]:
    """The same of 4 MiB, which is still read."""
    return await _told(port, [http(INFER, nested_json(4 << 20))])


def nested_json(size: int) -> bytes:
    """An infer request of about `size` bytes, at most, whose data is `[1]` over and over."""
    text = json.dumps({"inputs": [_tensor([1, 8, 8, 3]) | {"data": ["here"]}]}).encode()
    return text.replace(b'"here"', b"[1]" + b",[1]" * ((size - len(text)) // 4))


async def large_picture(port: int) -> list[str]:
    """10,000 x 10,000 pixels of one colour in 12 KB of PNG."""
    return await _told(port, [http("/v1/classify", large_png(), Content_Type="image/png")])


async def endless(port: int) -> list[str]:
    """A chunked body that never ends; it is sent until the server closes the connection."""
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    answer = asyncio.create_task(reader.read(65536))
    sent = 0
    try:
        while not writer.is_closing() and sent < MOST_CHUNKS:
            writer.write(chunk)
            await writer.drain()
            sent += 1
    except ConnectionError:
        pass
    try:
        return [_status_of(await answer)]
    except ConnectionError:
        return ["connection reset"]


async def malformed_header(port: int) -> list[str]:
    """Lengths of the binary extension's header that are none, or another one's, and cut JSON."""
    text = json.dumps({"inputs": [_tensor([1, 8, 8, 3], binary_data_size=192)]}).encode()
    body = text + bytes(192)
    lengths = ("-1", "abc", "1e3", "", "9" * 30, len(body) + 1, len(text) - 1, len(text) + 1, 0)
    requests = [http(INFER, body, Inference_Header_Content_Length=length) for length in lengths]
    for size in (-1, 0, 191, 10**30, "192", None, 1.5):
        wrong = json.dumps({"inputs": [_tensor([1, 8, 8, 3], binary_data_size=size)]}).encode()
        requests.append(http(INFER, wrong + bytes(192), Inference_Header_Content_Length=len(wrong)))
    return await _told(port, requests)


async def wrong_shapes(port: int) -> list[str]:
    """Shapes that are not the model's, or not their data's; numbers that are no pixels."""
    shapes: list[Any] = [
        [1, 8, 8], [1, 8, 8, 4], [0, 8, 8, 3], [-1, 8, 8, 3], [2, 8, 8, 3], [1 << 62, 8, 8, 3],
        ["1", 8, 8, 3], [1.5, 8, 8, 3], [], None, [[1], 8, 8, 3],
    ]  # fmt: skip
    data: list[Any] = [[float("nan")] * 192, [256] * 192, [-1] * 192, [1.5] * 192, ["7"] * 192, [1]]
    inputs = [
        *(_tensor(shape) | {"data": [7] * 192} for shape in shapes),
        *(_tensor([1, 8, 8, 3]) | {"data": values} for values in data),
        _tensor([1, 8, 8, 3], datatype="FP32") | {"data": [7.0] * 192},
    ]
    return await _told(
        port, (http(INFER, json.dumps({"inputs": [one]}).encode()) for one in inputs)
    )


async def not_a_number(port: int) -> list[str]:
    """NaN and infinity for a model that takes float32 (the drop-in guard of the tests)."""
    requests = []
    for value in (np.nan, np.inf, -np.inf):
        values = np.zeros((1, 3, 8, 16), np.float32)
        values[0, 1, 2, 3] = value
        requests.append(infer_request("drop-in", values, name="data"))
    return await _told(port, requests)


async def queue_full(port: int) -> list[str]:
    """Sixty-four clients at once, for a queue of four pictures and a slow engine."""
    request = infer_request(MODEL, PICTURES[:1])
    answers = await asyncio.gather(*(_ask(port, request) for _ in range(64)))
    return _summary(answers)


async def poison(port: int) -> list[str]:
    """Ten pictures on which the engine raises, in batches with those of others."""
    picture = np.full((1, 8, 8, 3), 255, np.uint8)
    return await _told(port, [infer_request(MODEL, picture)] * 10)


def large_png() -> bytes:
    """The picture of `large_picture`."""
    rows = zlib.compressobj(9)
    content = b"".join(rows.compress(bytes(SIDE // 8 + 1)) for _ in range(SIDE)) + rows.flush()
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 1, 0, 0, 0, 0)),
        (b"IDAT", content),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _tensor(shape: Any, *, datatype: str = "UINT8", **parameters: Any) -> dict[str, Any]:
    return {"name": "image", "shape": shape, "datatype": datatype, "parameters": parameters}


async def _ask(port: int, request: bytes) -> Answer:
    connection = await connect(port)
    answer = await connection.ask(request)
    connection.close()
    return answer


async def _told(port: int, requests: Iterable[bytes]) -> list[str]:
    return _summary([await _ask(port, request) for request in requests])


def _summary(answers: Iterable[Answer]) -> list[str]:
    """As "16 x 400"; what has no message as an error must have is said too."""
    words = sorted(
        str(answer.status) if answer.status == 200 or _has_error(answer) else f"{answer.status} ?"
        for answer in answers
    )
    return [f"{len(list(same))} x {word}" for word, same in itertools.groupby(words)]


def _has_error(answer: Answer) -> bool:
    try:
        return list(json.loads(answer.body)) == ["error"]
    except ValueError:
        return False


def _status_of(answer: bytes) -> str:
    return f"1 x {answer[9:12].decode()}" if answer.startswith(b"HTTP/1.1 ") else "no answer"
