"""The same application on a Ray cluster: one replica for each device, behind Ray Serve's proxies.

A replica is a whole server but for its port: sessions, batches, limits, quarantine and an attack
alarm of its own, which sees the share of the traffic that comes to it. What uvicorn's connections
bound (heads, idle and hostile clients) is left to Ray's proxy, or to whatever stands before it.

`prn-guard serve --engine ray` runs `run`. Ray's own configuration files name `application`:

    applications:
      - import_path: prn_guard.serve.ray_serve:application
        args: {folder: /models/guarded, devices: cuda}
        deployments:
          - name: Guard
            autoscaling_config: {min_replicas: 1, max_replicas: 8, target_ongoing_requests: 32}
"""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final, final

import ray
from ray import serve
from starlette.types import ASGIApp, Receive, Scope, Send

from prn_guard.artifact import read_artifact
from prn_guard.errors import DeviceError, InvalidArgumentError
from prn_guard.serve import logs
from prn_guard.serve.app import build_app
from prn_guard.serve.build import Parts, build
from prn_guard.serve.settings import ServeSettings, read_settings
from prn_guard.session import cuda_index

DEPLOYMENT: Final = "Guard"
APPLICATION: Final = "prn-guard"
ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",  # else Ray reports over the internet
    # Else a proxy leaves the replicas of other nodes idle while one beside it takes requests.
    "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",
}
"""For every node of a cluster, before it is started; a cluster that `run` starts has it."""
_ATTEMPTS: Final = 2
"""To start a replica before the deployment fails."""

_log: Final = logging.getLogger(__name__)


def run(settings: ServeSettings, *, wanted: threading.Event | None = None) -> bool:
    """Serve until SIGTERM or SIGINT, on the cluster of `RAY_ADDRESS` or a new one of this machine.

    Args:
        settings: checked; the folder must lie at the same path on every node.
        wanted: stops the server once it is set, beside the signals.

    Returns:
        True: Ray lets replicas answer what is in flight.

    Raises:
        InvalidArgumentError: settings that this adapter cannot keep, or no cluster is there.
        ArtifactError: the folder is damaged.
        DeviceError: no replica could be started; Ray's logs say why.
    """
    check(settings)
    read_artifact(settings.folder, public_key=settings.public_key)
    wanted = wanted or threading.Event()
    with _cluster(), _signals(wanted):  # in this order: Ray takes SIGTERM for itself
        serve.start(proxy_location="HeadOnly", http_options=_http_options(settings))
        try:
            serve.run(deployment(settings), name=APPLICATION, route_prefix="/")
        except (RuntimeError, ray.exceptions.RayError) as error:
            serve.shutdown()
            raise DeviceError(
                f"Ray could not start a replica: {str(error).splitlines()[0]} Ray's logs say why."
            ) from error
        _log.info("ready", extra={"model": settings.name, "port": settings.port})
        wanted.wait()
        _log.info("stopping")
        # The proxy lives on until the replicas have answered what is in flight.
        serve.delete(APPLICATION)
        serve.shutdown()
    return True


def application(arguments: Mapping[str, Any]) -> serve.Application:
    """What a configuration file of Ray Serve names as `import_path`.

    Args:
        arguments: settings by their names, as `prn-guard serve` has them; the environment's and the
            defaults hold for what is left out. Host and port are the proxy's, in the same file.

    Raises:
        InvalidArgumentError: as `read_settings` and `check`.
    """
    settings = read_settings({**arguments, "engine": "ray"})
    check(settings)
    return deployment(settings)


def check(settings: ServeSettings) -> None:
    """Refuse what one replica cannot keep, or Ray's proxy does not do.

    Raises:
        InvalidArgumentError: devices of both kinds, or a port for metrics. gRPC, which is on unless
            it is turned off, is left out without a word.
    """
    kinds = {cuda_index(device) is None for device in settings.devices}
    if len(kinds) > 1:
        raise InvalidArgumentError(
            f"devices are {', '.join(settings.devices)}; with --engine ray all must be CPUs or all "
            "GPUs, because replicas are alike."
        )
    if settings.metrics_port is not None:
        raise InvalidArgumentError(
            "metrics_port cannot be kept with --engine ray: several replicas share a machine."
        )


def deployment(settings: ServeSettings) -> serve.Application:
    """One replica for each of `settings.devices`; which GPU a replica gets is Ray's choice.

    Args:
        settings: checked. Without `threads` a replica on CPUs takes one core.
    """
    on_gpu = cuda_index(settings.devices[0]) is not None
    threads = settings.threads or 1
    own = settings.model_copy(
        update={"devices": ("cuda",) if on_gpu else ("cpu",), "threads": threads}
    )

    def replica() -> ASGIApp:
        return Replica(own)

    guard: Any = serve.ingress(replica)()
    made = serve.deployment(
        guard,
        name=DEPLOYMENT,
        num_replicas=len(settings.devices),
        ray_actor_options={"num_cpus": threads, "num_gpus": 1 if on_gpu else 0},
        # Ray's default of 5 would keep batches from forming. What is more waits at the proxy, which
        # answers with 503 when that is full.
        max_ongoing_requests=2 * settings.max_batch,
        max_queued_requests=settings.max_queue,
        graceful_shutdown_timeout_s=settings.stop_timeout,
        max_constructor_retry_count=_ATTEMPTS,
    )
    app: serve.Application = made.bind()
    return app


@final
class Replica:
    """The application as ASGI, whose lifespan opens the sessions and ends them.

    Args:
        settings: of one replica.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._parts: Parts | None = None
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or the replica's beginning and end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._app is not None:
            await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._start()
        except Exception as error:
            _log.exception("the replica could not start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        settings = self._settings
        logs.configure(settings.log_level)
        parts = await asyncio.to_thread(build, settings)
        await parts.service.start()
        # Counts of one replica, another one at every scrape, would make no sense to Prometheus.
        shown = settings.model_copy(update={"metrics_port": 0})
        self._app = build_app(
            parts.service, parts.handlers, shown, tokens=parts.tokens, budget=parts.budget
        )
        self._parts = parts

    async def _stop(self) -> None:
        if self._parts is None:
            return
        await self._parts.service.stop(self._settings.stop_timeout)
        if self._parts.webhook is not None:
            await self._parts.webhook.close()
        self._parts.handlers.close()


def _http_options(settings: ServeSettings) -> dict[str, Any]:
    return {
        "host": settings.host,
        "port": settings.port,
        "keep_alive_timeout_s": max(1, round(settings.keep_alive)),
        "ssl_certfile": None if settings.tls_cert is None else str(settings.tls_cert),
        "ssl_keyfile": None if settings.tls_key is None else str(settings.tls_key),
    }


@contextlib.contextmanager
def _cluster() -> Iterator[None]:
    """Be connected to a cluster; end only what was begun here."""
    if ray.is_initialized():
        yield
        return
    for name, text in ENVIRONMENT.items():
        os.environ.setdefault(name, text)
    try:
        ray.init(include_dashboard=False, log_to_driver=True, configure_logging=False)
    except ConnectionError as error:
        raise InvalidArgumentError(f"RAY_ADDRESS leads to no cluster: {error}.") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _signals(wanted: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set the event, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = (signal.SIGTERM, signal.SIGINT)
    before = {name: signal.getsignal(name) for name in names}
    for name in names:
        signal.signal(name, lambda *_: wanted.set())
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
