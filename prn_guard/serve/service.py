"""What REST, gRPC and Ray share: one model, and what is told of every answered request."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, final

from prn_guard.contract import Manifest
from prn_guard.serve.batcher import Batcher
from prn_guard.serve.engine import Engine, Outcome, Values
from prn_guard.serve.errors import MalformedError, RequestError, StoppingError, UnknownModelError
from prn_guard.serve.tensors import ONNX_TYPES, input_datatype
from prn_guard.serve.watch import Watch
from prn_guard.version import __version__

if TYPE_CHECKING:
    from prn_guard.serve.metrics import Metrics

VERSION: Final = "1"
PLATFORM: Final = "onnxruntime_onnx"
"""Triton's word for it, which some clients compare."""

_log: Final = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """How much is taken at a time."""

    max_batch: int
    """Pictures in one run."""
    max_queue: int
    """Pictures that wait, and that one request may hold."""
    max_delay: float
    """Seconds that the first picture of a batch may wait for others."""
    max_timeout: float
    """Seconds that a request may take, whatever it asks for."""


@final
class Service:
    """One model behind every protocol; belongs to one event loop.

    Args:
        name: the model's; its only version is `VERSION`.
        engine: its sessions.
        metrics: counts.
        watch: alarm and quarantine.
        limits: of queue, batches and time.
    """

    def __init__(
        self, name: str, engine: Engine, *, metrics: "Metrics", watch: Watch, limits: Limits
    ) -> None:
        self.name: Final = name
        self.manifest: Final[Manifest] = engine.manifest
        self.metrics: Final = metrics
        self.watch: Final = watch
        self.limits: Final = limits
        self._engine = engine
        self._extras = {
            output: (ONNX_TYPES[kind], shape)
            for output, (kind, shape) in engine.extras.items()
            if kind in ONNX_TYPES
        }
        self._batcher: Batcher | None = None
        self._warm = self._stopping = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Warm every session up; `ready` from then on.

        Raises:
            PrnGuardError: a session cannot run what it will be asked to.
        """
        self._batcher = Batcher(
            self._engine,
            max_batch=self.limits.max_batch,
            max_queue=self.limits.max_queue,
            max_delay=self.limits.max_delay,
            on_batch=self._on_batch,
        )
        sessions = range(self._engine.sessions)
        await asyncio.gather(*(asyncio.to_thread(self._engine.warm_up, one) for one in sessions))
        self._warm = True

    def begin_stop(self) -> None:
        """No longer ready; what is in flight goes on, new requests are refused."""
        self._stopping = True

    async def stop(self, timeout: float, hurry: asyncio.Event | None = None) -> bool:
        """Wait until nothing is in flight, then end the sessions' threads.

        Args:
            timeout: seconds to wait; what is not answered by then is answered with 503.
            hurry: ends the waiting once it is set.

        Returns:
            Whether everything was answered.
        """
        self.begin_stop()
        finishing = asyncio.create_task(self._finish())
        hurried = asyncio.create_task((hurry or asyncio.Event()).wait())
        await asyncio.wait(
            {finishing, hurried}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        answered = finishing.done()
        if not answered:
            _log.error("requests were given up", extra={"in_flight": self._in_flight})
            if self._batcher is not None:
                self._batcher.abandon()
        for task in (finishing, hurried):
            task.cancel()
        await asyncio.wait({finishing, hurried})
        await asyncio.to_thread(self.watch.close)
        return answered

    async def _finish(self) -> None:
        await self._idle.wait()
        if self._batcher is not None:
            await self._batcher.stop()

    @property
    def ready(self) -> bool:
        """Every session is warm, and the server does not stop."""
        return self._warm and not self._stopping

    @property
    def stopping(self) -> bool:
        """The server stops: connections are to be closed after their answer."""
        return self._stopping

    @property
    def waiting(self) -> int:
        """Pictures in the queue."""
        return 0 if self._batcher is None else self._batcher.waiting

    def check_model(self, name: str, version: str) -> None:
        """Refuse another model than this; an empty version is the only one.

        Raises:
            UnknownModelError: it is another.
        """
        if name != self.name:
            raise UnknownModelError(f"There is no model {name[:100]!r}; this is {self.name!r}.")
        if version not in {"", VERSION}:
            raise UnknownModelError(
                f"{self.name!r} has no version {version[:100]!r}; its only one is {VERSION!r}."
            )

    def server_metadata(self) -> dict[str, Any]:
        """The protocol's server metadata."""
        return {"name": "prn-guard", "version": __version__, "extensions": ["binary_tensor_data"]}

    def model_metadata(self) -> dict[str, Any]:
        """The protocol's model metadata; -1 stands for the batch."""
        manifest = self.manifest
        tensor, names = manifest.tensor, manifest.names
        answers: dict[str, tuple[str, tuple[int | str | None, ...]]] = {
            names.logits: ("FP32", (-1, len(manifest.class_names))),
            names.label: ("INT64", (-1,)),
            names.score: ("FP32", (-1,)),
            names.flagged: ("BOOL", (-1,)),
            **self._extras,
        }
        shape = [-1, *tensor.shape(manifest.input)]
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": PLATFORM,
            "inputs": [{"name": tensor.name, "datatype": input_datatype(manifest), "shape": shape}],
            "outputs": [
                {
                    "name": name,
                    "datatype": answers[name][0],
                    "shape": [size if isinstance(size, int) else -1 for size in answers[name][1]],
                }
                for name in manifest.outputs
                if name in answers
            ],
        }

    def outputs(self, asked: Collection[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Which outputs a request is to get.

        Args:
            asked: their names; None or none at all stands for all but the rectified picture, which
                is as large as the request.

        Returns:
            Their names in the order of the request, or of the graph, and which of them are to be
            passed to `classify` as `extras`.

        Raises:
            MalformedError: there is no such output.
        """
        names = self.manifest.names
        known = [name for name in self.manifest.outputs if name in {*names.all(), *self._extras}]
        for name in asked or ():
            if name not in known:
                raise MalformedError(f"There is no output {name[:100]!r}; the model has {known}.")
        chosen = tuple(asked) if asked else tuple(n for n in known if n not in names.on_request)
        return chosen, tuple(name for name in chosen if name in self._extras)

    @contextlib.contextmanager
    def admit(self, protocol: str) -> Iterator[None]:
        """Around each inference request, from before its body is read until it is answered.

        It counts what is in flight, and tells metrics of outcome and duration: callers of
        `classify` must not do that themselves.

        Args:
            protocol: "rest", "grpc" or "classify".

        Raises:
            StoppingError: the server stops, or is not ready yet.
        """
        started = perf_counter()
        outcome = "error"
        self._in_flight += 1
        self._idle.clear()
        try:
            if not self.ready:
                doing = "is stopping" if self._stopping else "is not ready yet"
                raise StoppingError(f"The server {doing}. Send the request again later.")
            yield
            outcome = "ok"
        except RequestError as error:
            outcome = error.outcome
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()
            self.metrics.request(protocol, outcome, perf_counter() - started)

    def deadline(self, wanted: float | None) -> float:
        """Seconds that a request may take: what it asks for, at most the configured maximum.

        Raises:
            MalformedError: not a positive finite number.
        """
        if wanted is None:
            return self.limits.max_timeout
        if not 0 < wanted < math.inf:
            raise MalformedError("The timeout must be a positive number.")
        return min(wanted, self.limits.max_timeout)

    async def classify(
        self,
        values: Values,
        *,
        request_id: str,
        deadline: float | None = None,
        extras: Sequence[str] = (),
    ) -> Outcome:
        """Answer checked values (`tensors.input_values`), then tell metrics, alarm, quarantine.

        Args:
            values: `(N, ...)` of the graph's input.
            request_id: for the log.
            deadline: seconds from now; None for the configured maximum.
            extras: as `outputs` names them.

        Raises:
            RequestError: as `Batcher.submit`.
        """
        if self._batcher is None:
            raise StoppingError("The server is not ready yet. Send the request again later.")
        outcome = await self._batcher.submit(
            values, deadline=self.deadline(deadline), extras=extras
        )
        self.watch.seen(values, outcome.verdict, request_id)
        return outcome

    def _on_batch(self, pictures: int, waited: float, ran: float) -> None:
        self.metrics.batch(pictures)
        self.metrics.stage("queue", waited)
        self.metrics.stage("run", ran)
        self.metrics.queue(self.waiting)
