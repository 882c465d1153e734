"""Stopping: what is in flight is answered, what comes later is told to go elsewhere."""

import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from prn_guard.errors import DeviceError, InvalidArgumentError
from tests.prn_guard.serve.running import NAME, PATIENCE, HeldEngine, infer_body, serving

INFER = f"/v2/models/{NAME}/infer"
PICTURE = np.full((1, 8, 8, 3), 7, np.uint8)

CLIENT = """
import http.client, json, sys
port, body, score = int(sys.argv[1]), sys.argv[2].encode(), float(sys.argv[3])
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
answered = 0
while True:
    connection.request("POST", "/v2/models/tiny/infer", body)
    response = connection.getresponse()
    content = json.loads(response.read())
    if response.status != 200:
        break
    assert content["outputs"][1]["data"] == [score]
    answered += 1
    if answered == 20:
        print("answered", flush=True)
assert response.status == 503, content
assert int(response.headers["retry-after"]) >= 1
assert response.headers["connection"] == "close"
print(answered)
"""


def test_in_flight_is_answered_and_new_requests_are_refused(served_folder):
    engine = HeldEngine(served_folder)
    with serving(served_folder, engine, stop_delay=0.0) as running:
        engine.let_go.clear()
        answers = []
        threads = [
            threading.Thread(
                target=lambda: answers.append(running.ask("POST", INFER, infer_body(PICTURE)))
            )
            for _ in range(5)
        ]
        threads[0].start()
        assert engine.entered.acquire(timeout=PATIENCE)
        for thread in threads[1:]:
            thread.start()
        while running.ask("GET", "/v1/state").json["waiting"] < 4:
            pass
        running.control.stop()
        while (ready := running.ask("GET", "/v2/health/ready")).status == 200:
            pass
        assert (ready.status, ready.json) == (503, {"ready": False})
        assert running.ask("GET", "/v2/health/live").status == 200
        assert running.ask("GET", f"/v2/models/{NAME}/ready").status == 503
        late = running.ask("POST", INFER, infer_body(PICTURE))
        assert (late.status, late.headers["retry-after"]) == (503, "5")
        assert late.headers["connection"] == "close"
        assert "is stopping" in late.json["error"]
        engine.let_go.set()
        for thread in threads:
            thread.join()
        assert [answer.status for answer in answers] == [200] * 5
        running.stop()
        with pytest.raises(ConnectionRefusedError):
            running.connect()


def test_a_session_that_hangs_does_not_hold_the_server_forever(served_folder):
    engine = HeldEngine(served_folder)
    with serving(served_folder, engine, stop_timeout=0.1) as running:
        engine.let_go.clear()
        body = infer_body(PICTURE)
        with running.connect() as connection:
            text = (
                f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            connection.sendall(text.encode() + body)
            assert engine.entered.acquire(timeout=PATIENCE)
            running.control.stop()
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503")
        engine.let_go.set()


def test_not_ready_before_it_is_warm(served_folder):
    engine = HeldEngine(served_folder)
    warm = threading.Event()
    engine.warm_up = lambda _session: warm.wait(PATIENCE)
    with serving(served_folder, engine, wait_for="listening") as running:
        assert running.ask("GET", "/v2/health/live").status == 200
        assert running.ask("GET", "/v2/health/ready").status == 503
        early = running.ask("POST", INFER, infer_body(PICTURE))
        assert (early.status, early.headers["retry-after"]) == (503, "5")
        assert "not ready yet" in early.json["error"]
        warm.set()
        assert running.control.ready.wait(PATIENCE)
        assert running.ask("GET", "/v2/health/ready").status == 200
        assert running.ask("POST", INFER, infer_body(PICTURE)).status == 200


def test_a_session_that_cannot_be_warmed_up_ends_the_server(served_folder):
    engine = HeldEngine(served_folder)

    def fail(session=0):
        raise DeviceError("out of memory")

    engine.warm_up = fail
    with pytest.raises(DeviceError, match="out of memory"), serving(served_folder, engine):
        pass


def test_a_port_that_is_taken_is_an_error(served_folder, server):
    with (
        pytest.raises(InvalidArgumentError, match=f"127.0.0.1 port {server.port}"),
        serving(served_folder, port=server.port),
    ):
        pass


def test_a_signal_under_load_loses_nothing(served_folder):
    """Clients in processes of their own ask as fast as they can until they are told to stop."""
    command = [sys.executable, "-c", "from prn_guard.cli import main; main()"]
    flags = ["serve", served_folder, "--port", "0", "--no-grpc", "--stop-delay", "0.3"]
    environment = {key: text for key, text in os.environ.items() if "PRN_GUARD" not in key}
    with subprocess.Popen(  # noqa: S603
        [*command, *flags, "--log-level", "info"], stderr=subprocess.PIPE, env=environment
    ) as process:
        logs = (json.loads(line) for line in process.stderr)
        facts = next(line for line in logs if line["message"] == "listening")
        next(line for line in logs if line["message"] == "ready")
        rest = threading.Thread(target=lambda: list(logs))
        rest.start()
        score = str(float(np.float32(7 / 255)))
        body = infer_body(PICTURE).decode()
        arguments = [sys.executable, "-c", CLIENT, str(facts["port"]), body, score]
        clients = [
            subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)  # noqa: S603
            for _ in range(3)
        ]
        for client in clients:
            assert client.stdout.readline() == "answered\n"
        process.send_signal(signal.SIGTERM)
        for client in clients:
            out, _ = client.communicate(timeout=PATIENCE)
            assert client.returncode == 0
            assert int(out) >= 20
        assert process.wait(PATIENCE) == 0
        rest.join()
