"""Starting and stopping the server: ports, signals, and the order in which things end."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, cast, final

import uvicorn
from starlette.types import ASGIApp

from prn_guard.errors import InvalidArgumentError
from prn_guard.plain_files import read_bounded
from prn_guard.serve.app import build_app, build_metrics_app
from prn_guard.serve.build import Build, Parts, build
from prn_guard.serve.connections import BoundedConnection
from prn_guard.serve.grpc_call import GrpcRules
from prn_guard.serve.grpc_server import GrpcServer
from prn_guard.serve.settings import ServeSettings

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_BACKLOG: Final = 1024
_MOST_PEM_BYTES: Final = 1 << 20
_FINISH: Final = 5
"""Seconds that connections have to end once nothing is in flight."""

_log: Final = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the server listens; a port of 0 has become the one that was free."""

    host: str
    port: int
    grpc_port: int | None
    metrics_port: int | None


@final
class Control:
    """A handle for whoever runs the server in a thread: where it listens, and how to stop it."""

    def __init__(self) -> None:
        self.addresses: Addresses | None = None
        self.listening = threading.Event()
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wanted: asyncio.Event | None = None

    def stop(self) -> None:
        """Begin to stop, as SIGTERM does; from any thread, once `listening` is set."""
        if self._loop is not None and self._wanted is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._wanted.set)

    def attach(self, wanted: asyncio.Event) -> None:
        """Called by the server, on its event loop."""
        self._loop, self._wanted = asyncio.get_running_loop(), wanted


def run(
    settings: ServeSettings, *, control: Control | None = None, building: Build = build
) -> bool:
    """Serve until SIGTERM, SIGINT or `control.stop`, then answer what is in flight and return.

    Args:
        settings: checked.
        control: told where the server listens and when it is ready.
        building: makes the server's parts.

    Returns:
        Whether everything that was accepted was answered; if not, a session may still run.

    Raises:
        PrnGuardError: the server cannot start.
    """
    with contextlib.ExitStack() as stack:
        main = stack.enter_context(_bind(settings.host, settings.port))
        aside = (
            None
            if settings.metrics_port is None
            else stack.enter_context(_bind(settings.host, settings.metrics_port))
        )
        parts = building(settings)
        return asyncio.run(_serve(parts, main, aside, control or Control()))


async def _serve(
    parts: Parts, main: socket.socket, aside: socket.socket | None, control: Control
) -> bool:
    settings, service = parts.settings, parts.service
    wanted, hurry = asyncio.Event(), asyncio.Event()
    control.attach(wanted)
    app = build_app(service, parts.handlers, settings, tokens=parts.tokens, budget=parts.budget)
    with _signals(wanted, hurry):
        servers = [_Server(_config(app, settings), main)]
        if aside is not None:
            metrics = build_metrics_app(service, settings, tokens=parts.tokens, budget=parts.budget)
            servers.append(_Server(_config(metrics, settings), aside))
        rpc = _grpc(parts)
        try:
            tasks = [await server.begin() for server in servers]
            rpc_port = None if rpc is None else await rpc.start(settings.host, settings.grpc_port)
            control.addresses = Addresses(
                host=settings.host,
                port=main.getsockname()[1],
                grpc_port=rpc_port,
                metrics_port=None if aside is None else aside.getsockname()[1],
            )
            control.listening.set()
            _log.info("listening", extra=asdict(control.addresses))
            stopping = asyncio.create_task(wanted.wait())
            await _first([asyncio.create_task(service.start()), stopping, *tasks])
            if not stopping.done():
                control.ready.set()
                _log.info("ready", extra={"model": service.name})
                await _first([stopping, *tasks])
        finally:
            answered = await _stop(parts, servers, rpc, hurry)
    return answered


def _grpc(parts: Parts) -> GrpcServer | None:
    settings = parts.settings
    if not settings.grpc:
        return None
    rules = GrpcRules(
        tokens=parts.tokens,
        budget=parts.budget,
        max_message_bytes=settings.max_body_bytes,
        max_numbers=settings.max_json_bytes,
        header_timeout=settings.header_timeout,
        body_timeout=settings.body_timeout,
        keep_alive=settings.keep_alive,
        max_calls=settings.max_connections,
    )
    pair = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        pair = (
            read_bounded(settings.tls_key, _MOST_PEM_BYTES),
            read_bounded(settings.tls_cert, _MOST_PEM_BYTES),
        )
    return GrpcServer(parts.service, rules, tls=pair)


async def _stop(
    parts: Parts, servers: "list[_Server]", rpc: GrpcServer | None, hurry: asyncio.Event
) -> bool:
    """Not ready; then nothing in flight; then no connections."""
    _log.info("stopping")
    parts.service.begin_stop()
    # Whoever sends requests here learns meanwhile, from readiness or a 503, to send them elsewhere.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(hurry.wait(), parts.settings.stop_delay)
    answered = await parts.service.stop(parts.settings.stop_timeout, hurry)
    if rpc is not None:
        await rpc.stop(0 if hurry.is_set() else _FINISH)
    for server in servers:
        await server.end()
    if parts.webhook is not None:
        await parts.webhook.close()
    parts.handlers.close()
    _log.info("stopped", extra={"everything_answered": answered})
    return answered


async def _first(tasks: "list[asyncio.Task[Any]]") -> None:
    """Wait for the first of them, and raise what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


@final
class _Server(uvicorn.Server):
    """One port; signals are not its business."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self._listener = listener
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> asyncio.Task[None]:
        """Listen; the task ends when the server has."""
        self._task = asyncio.create_task(self._serve([self._listener]))
        up = asyncio.create_task(self._up.wait())
        await _first([self._task, up])
        return self._task

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and tells `begin`."""
        await super().startup(sockets)
        self._up.set()

    async def end(self) -> None:
        """Close every connection, after its answer, and the port."""
        self.should_exit = True
        if self._task is not None:
            await asyncio.wait({self._task})


def _config(app: ASGIApp, settings: ServeSettings) -> uvicorn.Config:
    """Set uvicorn up with this server's connections, without its own logs, signals and websockets.

    Raises:
        InvalidArgumentError: certificate or key cannot be used.
    """
    connection = partial(
        BoundedConnection,
        header_timeout=settings.header_timeout,
        max_connections=settings.max_connections,
    )
    config = uvicorn.Config(
        app,
        http=cast("Any", connection),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=cast("int", settings.keep_alive),
        timeout_graceful_shutdown=_FINISH,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=None if settings.tls_key is None else str(settings.tls_key),
        ssl_keyfile_password="-",  # noqa: S106 - else OpenSSL asks the terminal for one
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError among them
        raise InvalidArgumentError(
            f"{settings.tls_cert} and {settings.tls_key} are no certificate and its key: {error}. "
            "Both must be PEM, the certificate with its chain, and the key without a password."
        ) from error
    return config


def _bind(host: str, port: int) -> socket.socket:
    """A socket that listens nowhere yet.

    Raises:
        InvalidArgumentError: the address is taken, is not this machine's, or is none.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        raise InvalidArgumentError(
            f"The server cannot listen on {host} port {port}: {error}. Choose another --host or "
            "--port; port 0 takes a free one."
        ) from error
    return listener


@contextlib.contextmanager
def _signals(wanted: asyncio.Event, hurry: asyncio.Event) -> Iterator[None]:
    """The first signal stops; a second one does not wait for what is in flight."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if wanted.is_set():
            hurry.set()
        wanted.set()

    for name in _SIGNALS:
        loop.add_signal_handler(name, stop)
    try:
        yield
    finally:
        for name in _SIGNALS:
            loop.remove_signal_handler(name)
