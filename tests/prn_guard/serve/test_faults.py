"""What clients do to a server, by accident or not: each is told so, and the others are answered."""

import io
import os
import socket
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.prn_guard.serve.raw_http import (
    INFER,
    answer_of,
    error_of,
    head,
    rest_of,
    status_of,
    works,
)
from tests.prn_guard.serve.running import PATIENCE, binary_body, serving


@pytest.fixture(scope="module")
def strict(served_folder):
    """A server with small limits."""
    limits = {
        "max_body_bytes": 100_000,
        "max_buffered_bytes": 150_000,
        "max_pixels": 10_000,
        "header_timeout": 0.4,
        "body_timeout": 0.4,
        "max_connections": 12,
    }
    with serving(served_folder, **limits) as running:
        yield running


def test_a_client_killed_in_the_middle_of_its_body(strict):
    for _ in range(3):
        connection = strict.connect()
        connection.sendall(head(Content_Length="5000") + b"{")
        linger = struct.pack("ii", 1, 0)  # closing resets the connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.close()
    works(strict)


def test_a_body_that_stops_coming_is_ended(strict):
    with strict.connect() as connection:
        connection.sendall(head(Content_Length="5000") + b"{")
        answer = rest_of(connection)
    assert status_of(answer) == 408
    assert "0.4 seconds" in error_of(answer)
    works(strict)


def test_a_body_byte_by_byte_is_ended(strict):
    started = time.monotonic()
    with strict.connect() as connection:
        connection.sendall(head(Content_Length="5000"))
        stop = threading.Event()

        def drip():
            while not stop.wait(0.02):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        answer = rest_of(connection)
        stop.set()
        thread.join()
    assert status_of(answer) == 408
    assert time.monotonic() - started < PATIENCE / 2


@pytest.mark.parametrize("sent", [b"", b"GET /v2 HT", head()[:-2], b"\r\n\r\n"])
def test_a_head_that_stops_coming_is_ended(strict, sent):
    with strict.connect() as connection:
        connection.sendall(sent)
        answer = rest_of(connection)
    assert status_of(answer) == 408


def test_a_head_without_end_is_ended(strict):
    with strict.connect() as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: ")
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):  # noqa: PT012
            for _ in range(2000):
                connection.sendall(b"x" * 65536)
    works(strict)


def test_a_chunk_extension_without_end_is_ended(strict):
    with strict.connect() as connection:
        connection.sendall(head(Transfer_Encoding="chunked") + b"5;")
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):  # noqa: PT012
            for _ in range(2000):
                connection.sendall(b"x" * 65536)
    works(strict)


def test_a_chunked_body_without_end_is_too_large(strict):
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    with strict.connect() as connection:
        connection.sendall(head(Transfer_Encoding="chunked"))
        connection.sendall(chunk * 30)
        answer = connection.recv(65536)
        assert status_of(answer) == 413
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):  # noqa: PT012
            for _ in range(5000):
                connection.sendall(chunk)
    works(strict)


def test_too_much_is_refused_when_it_is_announced(strict):
    with strict.connect() as connection:
        connection.sendall(head(Content_Length="100001", Expect="100-continue"))
        answer = answer_of(connection)
    assert status_of(answer) == 413
    assert b"100 Continue" not in answer
    assert error_of(answer) == "The request's body is larger than 100000 bytes."


def test_twenty_megabytes_of_garbage(server):
    garbage = os.urandom(20 << 20)
    answer = server.ask("POST", INFER, garbage)
    assert (answer.status, list(answer.json)) == (413, ["error"])  # so much JSON is not read
    assert server.ask("POST", "/v1/classify", garbage).status == 400
    works(server)


def test_a_client_that_sends_too_much_still_reads_its_answer(strict):
    answer = strict.ask("POST", INFER, b" " * 2_000_000)
    assert answer.status == 413
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("length", ["-1", "1e3", "abc", "9" * 40, "5, 6"])
def test_content_lengths_that_are_none(strict, length):
    with strict.connect() as connection:
        connection.sendall(head(Content_Length=length) + b"{}")
        answer = rest_of(connection)
    assert status_of(answer) in {400, 413}
    works(strict)


def test_no_http(strict):
    with strict.connect() as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(200))
        answer = rest_of(connection)
    assert status_of(answer) == 400
    assert error_of(answer)


def large_png():
    """10,000 x 10,000 pixels of one colour in 12 KB."""
    rows = zlib.compressobj(9)
    content = b"".join(rows.compress(bytes(1251)) for _ in range(10_000)) + rows.flush()
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 10_000, 10_000, 1, 0, 0, 0, 0)),
        (b"IDAT", content),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def test_a_picture_with_too_many_pixels_is_not_decoded(server, strict):
    picture = large_png()
    assert len(picture) < 15_000
    for running in (server, strict):
        answer = running.ask("POST", "/v1/classify", picture, Content_Type="image/png")
        assert answer.status == 413
        assert "pixels" in answer.json["error"]


def test_the_pixel_limit_is_the_configured_one(strict):
    for side, status in ((100, 200), (101, 413)):
        stream = io.BytesIO()
        Image.new("RGB", (side, side)).save(stream, "PNG")
        answer = strict.ask("POST", "/v1/classify", stream.getvalue(), Content_Type="image/png")
        assert answer.status == status


def test_bodies_are_bounded_over_all_requests(served_folder):
    limits = {"max_body_bytes": 100_000, "max_buffered_bytes": 150_000}
    with serving(served_folder, **limits) as running:
        with running.connect() as holding:
            holding.sendall(head(Content_Length="90000") + b" " * 80_000)
            ends = time.monotonic() + PATIENCE
            while (answer := running.ask("POST", INFER, b" " * 90_000)).status == 400:
                assert time.monotonic() < ends  # until what is held has arrived
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        wait = time.monotonic() + PATIENCE
        while (answer := running.ask("POST", INFER, b" " * 90_000)).status == 503:
            assert time.monotonic() < wait  # until the server has seen that its client is gone
        assert answer.status == 400
        works(running)


def test_connections_are_bounded(served_folder):
    with serving(served_folder, max_connections=2) as running:
        works(running)
        with running.connect() as one, running.connect() as two:
            one.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            two.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert status_of(one.recv(65536)) == status_of(two.recv(65536)) == 200
            with running.connect() as three:
                answer = rest_of(three)
            assert status_of(answer) == 503
            assert b"retry-after: 1" in answer


def open_files(running):
    metrics = running.ask("GET", "/metrics").body.decode()
    (line,) = (one for one in metrics.splitlines() if one.startswith("process_open_fds "))
    return float(line.split()[1])


def test_an_answer_that_is_not_taken_is_thrown_away(served_folder):
    """A client asks for as much as buffers hold and more, and reads nothing."""
    body, length = binary_body(np.zeros((100, 8, 8, 3), np.uint8), parameters={"x": "y"})
    request = head(Content_Length=str(len(body)), Inference_Header_Content_Length=length) + body
    with serving(served_folder, header_timeout=0.3, body_timeout=0.3) as running:
        before = open_files(running)
        with running.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(1.0)
            with pytest.raises(OSError, match=r"reset|[Bb]roken pipe|timed out"):  # noqa: PT012
                for _ in range(10_000):
                    connection.sendall(request)
            ends = time.monotonic() + PATIENCE
            while open_files(running) > before + 1:  # this end of the connection
                assert time.monotonic() < ends
        works(running)
