"""Dynamic batching: requests that wait are merged into one run.

One queue, and for each session a task that takes from it. A session that is free takes what waits,
once the first of it has waited `max_delay` or a batch is full; while all are busy, batches form by
themselves. Nothing here reads a wall clock.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Final, final

import numpy as np

from prn_guard.errors import ArtifactError
from prn_guard.serve.engine import Outcome, Runner, Values
from prn_guard.serve.errors import (
    DeadlineExceededError,
    InferenceFailedError,
    QueueFullError,
    StoppingError,
    TooLargeError,
)

OnBatch = Callable[[int, float, float], None]

_log: Final = logging.getLogger(__name__)


@final
@dataclass(slots=True, eq=False)
class _Entry:
    """Pictures of one request that stay together: all of them, or `max_batch`."""

    values: Values
    extras: tuple[str, ...]
    since: float
    answer: asyncio.Future[Outcome]

    def __len__(self) -> int:
        return len(self.values)

    def settle(self, outcome: Outcome | Exception) -> None:
        """Answer, unless whoever waited is gone."""
        if self.answer.done():
            return
        if isinstance(outcome, Outcome):
            self.answer.set_result(outcome)
        else:
            self.answer.set_exception(outcome)


@final
class Batcher:
    """Merges requests into batches; to be made and used on one running event loop.

    Args:
        engine: runs the batches.
        max_batch: most pictures in one run.
        max_queue: most pictures that wait.
        max_delay: seconds that the first picture of a batch may wait for others.
        on_batch: told of every run: pictures, seconds waited by the first, seconds run.
    """

    def __init__(
        self,
        engine: Runner,
        *,
        max_batch: int,
        max_queue: int,
        max_delay: float,
        on_batch: OnBatch = lambda _pictures, _waited, _ran: None,
    ) -> None:
        self._engine = engine
        self._max_batch, self._max_queue, self._max_delay = max_batch, max_queue, max_delay
        self._on_batch = on_batch
        self._queue: deque[_Entry] = deque()
        self._open: set[_Entry] = set()
        self._waiting = 0
        self._stopping = False
        self._changed = asyncio.Event()
        """Something was queued, or nothing more will be."""
        self._pool = ThreadPoolExecutor(engine.sessions, thread_name_prefix="session")
        self._turn = asyncio.Lock()
        """One session at a time forms a batch: two would share out what one could run together."""
        self._workers = [
            asyncio.create_task(self._work(session)) for session in range(engine.sessions)
        ]

    @property
    def waiting(self) -> int:
        """Pictures that wait for a session."""
        return self._waiting

    async def submit(
        self, values: Values, *, deadline: float | None = None, extras: Sequence[str] = ()
    ) -> Outcome:
        """Answer one request's pictures.

        Args:
            values: `(N, ...)`, N at least 1. More than `max_batch` run in several batches.
            deadline: seconds from now, on the monotonic clock.
            extras: further outputs of the graph that are wanted.

        Raises:
            TooLargeError: more pictures than may ever wait.
            QueueFullError: no room for N more.
            DeadlineExceededError: the deadline passed.
            StoppingError: `stop` was called.
            InferenceFailedError: the engine raised on these pictures.
        """
        self._admit(len(values))
        loop = asyncio.get_running_loop()
        entries = [
            _Entry(values[at : at + self._max_batch], tuple(extras), loop.time(), future)
            for at in range(0, len(values), self._max_batch)
            for future in [loop.create_future()]
        ]
        self._queue.extend(entries)
        self._open.update(entries)
        self._waiting += len(values)
        self._changed.set()
        try:
            async with asyncio.timeout(deadline):
                parts = [await entry.answer for entry in entries]
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"The request was not answered within its {deadline:g} seconds. Allow it more "
                "time, or send fewer requests at once."
            ) from error
        finally:
            self._forget(entries)
        return Outcome.concatenate(parts)

    async def stop(self) -> None:
        """Answer everything accepted, then end the workers; later submits raise StoppingError."""
        self._stopping = True
        self._changed.set()
        await asyncio.gather(*self._workers)
        self._pool.shutdown()

    def abandon(self) -> None:
        """Answer everything that is open with StoppingError, and wait for no session."""
        self._stopping = True
        for entry in self._open:
            entry.settle(StoppingError("The server stopped before it came to this request."))
        for worker in self._workers:
            worker.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _admit(self, count: int) -> None:
        if self._stopping:
            raise StoppingError("The server is stopping. Send the request to another one.")
        if count > self._max_queue:
            raise TooLargeError(
                f"The request holds {count} pictures; at most {self._max_queue} may wait at a "
                "time. Send them in parts."
            )
        if self._waiting + count > self._max_queue:
            raise QueueFullError(
                f"{self._waiting} pictures wait already, of at most {self._max_queue}. Send the "
                "request again later."
            )

    def _forget(self, entries: list[_Entry]) -> None:
        """Take out of the queue what nobody waits for any more."""
        self._open.difference_update(entries)
        for entry in entries:
            if entry.answer.done() and not entry.answer.cancelled():
                entry.answer.exception()  # looked at, so that asyncio does not report it as lost
                continue
            entry.answer.cancel()
            with contextlib.suppress(ValueError):  # a session has it already
                self._queue.remove(entry)
                self._waiting -= len(entry)

    async def _work(self, session: int) -> None:
        while True:
            async with self._turn:
                batch = await self._next_batch()
            if not batch:
                return
            try:
                await self._answer(batch, session)
            except Exception as error:  # a worker that ended would leave its queue to hang
                _log.exception("a batch could not be answered")
                for entry in batch:
                    entry.settle(_failed(error))

    async def _next_batch(self) -> list[_Entry]:
        """Wait for the next batch; empty once the batcher has stopped and nothing waits."""
        while True:
            while not self._queue:
                if self._stopping:
                    return []
                self._changed.clear()
                await self._changed.wait()
            await self._let_grow()
            batch = self._take()
            if batch:  # else whoever waited is gone
                return batch

    async def _let_grow(self) -> None:
        """Wait until a batch is full, or its first picture has waited long enough."""
        loop = asyncio.get_running_loop()
        while self._queue and self._waiting < self._max_batch and not self._stopping:
            left = self._queue[0].since + self._max_delay - loop.time()
            if left <= 0:
                break
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    def _take(self) -> list[_Entry]:
        batch: list[_Entry] = []
        size = 0
        while self._queue and size + len(self._queue[0]) <= self._max_batch:
            entry = self._queue.popleft()
            size += len(entry)
            batch.append(entry)
        self._waiting -= size
        return batch

    async def _answer(self, batch: list[_Entry], session: int) -> None:
        waited = asyncio.get_running_loop().time() - batch[0].since
        outcomes, seconds = await self._run(batch, session)
        self._on_batch(sum(len(entry) for entry in batch), waited, seconds)
        if isinstance(outcomes, Exception):
            await self._isolate(batch, session, outcomes)
            return
        for entry, outcome in zip(batch, outcomes, strict=True):
            entry.settle(outcome)

    async def _isolate(self, batch: list[_Entry], session: int, error: Exception) -> None:
        """Run a failed batch's requests one by one, so that only those that fail alone fail."""
        for entry in batch:
            if entry.answer.done():
                continue
            if len(batch) > 1:
                outcomes, seconds = await self._run([entry], session)
                self._on_batch(len(entry), 0.0, seconds)
                if not isinstance(outcomes, Exception):
                    entry.settle(outcomes[0])
                    continue
                error = outcomes
            _log.error("a session failed on a request of %d pictures", len(entry), exc_info=error)
            entry.settle(_failed(error))

    async def _run(
        self, batch: list[_Entry], session: int
    ) -> tuple[list[Outcome] | Exception, float]:
        loop = asyncio.get_running_loop()
        started = perf_counter()
        try:
            outcomes: list[Outcome] | Exception = await loop.run_in_executor(
                self._pool, _run_together, self._engine, batch, session
            )
        except Exception as error:
            outcomes = error
        return outcomes, perf_counter() - started


def _failed(error: Exception) -> InferenceFailedError:
    failed = InferenceFailedError("The model failed on this request. The log says why.")
    failed.__cause__ = error
    return failed


def _run_together(engine: Runner, batch: list[_Entry], session: int) -> list[Outcome]:
    """In a session's thread: merge, run, and share out the rows."""
    values = [entry.values for entry in batch]
    extras = tuple(dict.fromkeys(name for entry in batch for name in entry.extras))
    merged = values[0] if len(values) == 1 else np.concatenate(values)
    whole = engine.run(np.ascontiguousarray(merged), session=session, extras=extras)
    if len(whole.verdict) != len(merged):  # else answers would go to the wrong requests
        raise ArtifactError(f"{len(merged)} pictures were answered with {len(whole.verdict)} rows.")
    outcomes, at = [], 0
    for entry in batch:
        part = whole.rows(at, at + len(entry))
        outcomes.append(Outcome(part.verdict, {name: part.extras[name] for name in entry.extras}))
        at += len(entry)
    return outcomes
