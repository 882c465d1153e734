"""A real server on a free loopback port, in a thread of this process."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prn_guard.serve.build import assemble, build
from prn_guard.serve.engine import Engine
from prn_guard.serve.run import Control, run
from prn_guard.serve.settings import read_settings
from tests.prn_guard.tiny import tiny_manifest, tiny_model, tiny_spec, write_folder

PATIENCE = 20.0
NAME = "tiny"


def tiny_folder(place: Path) -> Path:
    """The tiny guard's folder, named as the model is to be."""
    folder = place / NAME
    content = tiny_model().SerializeToString()
    write_folder(folder, content, tiny_manifest(tiny_spec(), content))
    return folder


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """What is served, where, and how to ask it."""

    control: Control
    thread: threading.Thread
    failures: list[BaseException] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.control.addresses.port

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            named = {name.replace("_", "-"): text for name, text in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            found = {name.lower(): text for name, text in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def stop(self) -> None:
        self.control.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        if self.failures:
            raise self.failures[0]


@contextlib.contextmanager
def serving(
    folder: Path, engine: Any = None, *, wait_for: str = "ready", **settings: Any
) -> Iterator[Running]:
    """Serve until the block ends; with `engine`, in place of the folder's sessions."""
    usual = {"folder": folder, "port": 0, "grpc": False, "stop_delay": 0.0, "stop_timeout": 10.0}
    checked = read_settings({**usual, **settings})
    building = build if engine is None else (lambda given: assemble(given, engine))
    control = Control()
    running = Running(control, threading.Thread(target=lambda: None))

    def target() -> None:
        try:
            run(checked, control=control, building=building)
        except BaseException as error:
            running.failures.append(error)
            control.ready.set()

    running.thread = threading.Thread(target=target, name="server")
    running.thread.start()
    assert getattr(control, wait_for).wait(PATIENCE)
    try:
        yield running
    finally:
        running.stop()


class HeldEngine:
    """The tiny guard's sessions, whose runs wait for `let_go` and may fail."""

    def __init__(self, folder: Path, *, sessions: int = 1) -> None:
        self._engine = Engine(folder, ["cpu"] * sessions)
        self.manifest, self.extras = self._engine.manifest, self._engine.extras
        self.sessions = sessions
        self.batches: list[int] = []
        self.entered = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.let_go.set()
        self.poison = -1
        """A batch that holds a picture whose first value is this fails."""

    def warm_up(self, session: int = 0) -> None:
        self._engine.warm_up(session)

    def run(self, values: np.ndarray, *, session: int = 0, extras: Any = ()) -> Any:
        self.batches.append(len(values))
        self.entered.release()
        assert self.let_go.wait(PATIENCE)
        if (values.reshape(len(values), -1)[:, 0] == self.poison).any():
            raise RuntimeError("poison: secrets of the inside")
        return self._engine.run(values, session=session, extras=extras)


def infer_body(pictures: np.ndarray, **more: Any) -> bytes:
    """An infer request as JSON."""
    tensor = {
        "name": "image",
        "shape": list(pictures.shape),
        "datatype": "UINT8",
        "data": pictures.ravel().tolist(),
    }
    return json.dumps({"inputs": [tensor], **more}).encode()


def binary_body(pictures: np.ndarray, **more: Any) -> tuple[bytes, str]:
    """The same with the binary extension, and the value of its header."""
    tensor = {
        "name": "image",
        "shape": list(pictures.shape),
        "datatype": "UINT8",
        "parameters": {"binary_data_size": pictures.nbytes},
    }
    text = json.dumps({"inputs": [tensor], **more}).encode()
    return text + pictures.tobytes(), str(len(text))
