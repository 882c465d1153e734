"""The webhook against servers on this machine: good ones, and such that misbehave."""

import asyncio
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from prn_guard.errors import InvalidArgumentError
from prn_guard.serve.alarm import AttackAlarm
from prn_guard.serve.webhook import Webhook, alarm_message


@pytest.fixture
def server():
    """An HTTP server that notes what it gets, and answers with `server.answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.got.append((self.path, dict(self.headers), json.loads(body)))
            self.send_response(self.server.answer)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        http.got, http.answer = [], 204
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield http
        http.shutdown()
        thread.join()


def deliver(url, *contents, **settings):
    """Send and wait; what `told` heard."""
    heard = []

    async def send():
        webhook = Webhook(url, told=heard.append, **settings)
        for content in contents:
            webhook.send(content)
        assert "delivered" not in heard  # `send` does not wait
        await webhook.close()

    asyncio.run(send())
    return heard


async def deliver_to(answer, *, timeout):
    """Send to a server that reads one line and then does `answer(writer)`."""
    ended, heard = asyncio.Event(), []

    async def serve(reader, writer):
        await reader.readline()
        await answer(writer)
        await ended.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        webhook = Webhook(f"http://127.0.0.1:{port}", timeout=timeout, told=heard.append)
        webhook.send({})
        await webhook.close()
        ended.set()
    return heard


def address(server):
    return f"http://127.0.0.1:{server.server_port}"


def test_the_alarm_arrives_as_it_is(server):
    alarm = AttackAlarm(false_positive_rate=0.01, calibration_pictures=500)
    alarm.observe([True] * 100)
    message = alarm_message(alarm.state, model="guarded", time="2026-11-30T12:00:00Z")
    assert deliver(f"{address(server)}/hook?key=a%20b", message) == ["delivered"]
    ((path, headers, content),) = server.got
    assert path == "/hook?key=a%20b"
    assert headers["Content-Type"] == "application/json"
    assert headers["Host"] == f"127.0.0.1:{server.server_port}"
    assert content == message
    assert content["alarm"]["raised"] is True
    assert "100.0% of the last 100" in content["text"]


@pytest.mark.parametrize("status", [302, 404, 500])
def test_another_status_is_a_failure_and_no_redirect_is_followed(server, status, caplog):
    server.answer = status
    assert deliver(f"{address(server)}/secret", {}) == ["failed"]
    assert [path for path, _, _ in server.got] == ["/secret"]
    assert f"status {status}" in caplog.text
    assert "secret" not in caplog.text


def test_a_closed_port_is_a_failure(caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    assert deliver(url, {}) == ["failed"]
    assert "ConnectionRefusedError" in caplog.text


def test_plain_http_on_a_tls_address_is_a_failure(server):
    assert deliver(f"https://127.0.0.1:{server.server_port}/", {}) == ["failed"]
    assert server.got == []


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 2", b"x"])
def test_a_server_that_does_not_finish_is_given_up(answer, caplog):
    async def begin(writer):
        writer.write(answer)

    assert asyncio.run(deliver_to(begin, timeout=0.1)) == ["failed"]
    assert "no answer in 0.1 s" in caplog.text


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n", b"HTTP/1.1 2000 OK\r\n", b"x" * 10_000])
def test_what_is_no_http_is_a_failure(answer):
    async def begin(writer):
        writer.write(answer)

    assert asyncio.run(deliver_to(begin, timeout=10)) == ["failed"]


def test_a_server_that_hangs_up_is_a_failure():
    async def hang_up(writer):
        writer.close()

    assert asyncio.run(deliver_to(hang_up, timeout=10)) == ["failed"]


def test_no_more_than_four_are_on_their_way(server):
    heard = deliver(address(server), *({"number": number} for number in range(7)))
    assert heard == ["dropped"] * 3 + ["delivered"] * 4
    assert sorted(content["number"] for _, _, content in server.got) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/", "file:///etc/passwd", "http://", "host/hook", "http://user:pass@host/",
        "http://user@host/", "http://host/\r\nX: y", "http://host:99999/", "http://ho st/", "",
        "http://hôst/", "http://[::1/",
    ],
)  # fmt: skip
def test_other_addresses_are_refused(url):
    with pytest.raises(InvalidArgumentError, match="must begin with http"):
        Webhook(url)
