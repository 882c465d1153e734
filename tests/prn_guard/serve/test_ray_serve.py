"""The adapter for Ray Serve: what it refuses, one replica alone, and a cluster of two nodes."""

import asyncio
import json
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from prn_guard.errors import InvalidArgumentError
from prn_guard.serve.settings import read_settings
from tests.prn_guard.serve.running import NAME, infer_body

if find_spec("ray") is None:
    pytest.skip("ray is not installed: pip install 'prn-guard[ray]'", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own use of pydantic
    from prn_guard.serve import ray_serve

ROOT = Path(__file__).resolve().parents[3]
PICTURE = np.full((1, 8, 8, 3), 7, np.uint8)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"devices": "cpu,cuda"}, "alike"), ({"metrics_port": 0}, "metrics_port")],
)
def test_what_replicas_cannot_keep_is_refused(served_folder, settings, said):
    with pytest.raises(InvalidArgumentError, match=said):
        ray_serve.check(read_settings({"folder": served_folder, **settings}))


def test_a_replica_is_the_application_between_its_beginning_and_its_end(served_folder, server):
    plain = server.ask("POST", f"/v2/models/{NAME}/infer", infer_body(PICTURE))
    settings = read_settings({"folder": served_folder, "engine": "ray", "threads": 1})
    replica = ray_serve.Replica(settings)

    async def live():
        incoming, outgoing = asyncio.Queue(), asyncio.Queue()
        life = asyncio.create_task(replica({"type": "lifespan"}, incoming.get, outgoing.put))
        incoming.put_nowait({"type": "lifespan.startup"})
        assert await outgoing.get() == {"type": "lifespan.startup.complete"}
        answers = [
            await ask(replica, "POST", f"/v2/models/{NAME}/infer", infer_body(PICTURE)),
            await ask(replica, "GET", "/metrics"),
        ]
        incoming.put_nowait({"type": "lifespan.shutdown"})
        assert await outgoing.get() == {"type": "lifespan.shutdown.complete"}
        await life
        return answers, await ask(replica, "POST", f"/v2/models/{NAME}/infer", infer_body(PICTURE))

    (infer, metrics), late = asyncio.run(live())
    assert infer == (200, plain.json)
    assert metrics[0] == 404
    assert late[0] == 503


def test_a_replica_that_cannot_start_says_why(tmp_path):
    replica = ray_serve.Replica(read_settings({"folder": tmp_path / "none", "engine": "ray"}))
    sent = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        sent.append(message)

    asyncio.run(replica({"type": "lifespan"}, receive, send))
    (message,) = sent
    assert message["type"] == "lifespan.startup.failed"
    assert "none" in message["message"]


async def ask(app, method, path, body=b""):
    """Status and content of one request to an ASGI application."""
    sent = []
    gone = asyncio.Event()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "scheme": "http",
        "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", b"localhost"), (b"content-length", str(len(body)).encode())],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    await app(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(content)


def test_two_nodes_answer_as_the_server_without_ray(tmp_path):
    """In a process of its own: Ray leaves threads and settings behind."""
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.serving_ray", "--requests", "64", "--out", out]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, timeout=240)  # noqa: S603
    result = json.loads(out.read_text())
    assert result["answers_equal"] is True
    assert len(result["pictures_by_replica"]) == 2
    assert all(count > 0 for count in result["pictures_by_replica"])
