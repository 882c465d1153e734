"""Clients that ask steadily and know what every answer must be, while something goes wrong."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from benchmarks.serving_client import Answer, connect, infer_request, outputs_of
from tests.prn_guard.tiny import BIASES, SIZE, THRESHOLD, VALUES, WEIGHTS

MODEL: Final = "tiny"
CLIENTS: Final = 4
AROUND: Final = 200
"""Answers that are awaited before and after whatever goes wrong."""
BACK_OFF: Final = 0.02


@final
@dataclass
class Seen:
    """What the steady clients met."""

    right: int = 0
    wrong: int = 0
    told_to_wait: int = 0
    """503 with Retry-After."""
    failed: int = 0
    """Any other status."""
    lost: int = 0
    """The connection ended without an answer."""
    longest_ms: float = 0.0
    statuses: set[int] = field(default_factory=set)

    def to_json(self) -> dict[str, Any]:
        """For the result file."""
        return asdict(self) | {"statuses": sorted(self.statuses)}

    @property
    def unharmed(self) -> bool:
        """Every request was answered, and rightly, or told to come again."""
        return self.right > 0 and not self.wrong + self.failed + self.lost

    def take(self, answer: Answer, row: int, questions: "Questions", seconds: float) -> None:
        """Count one answer."""
        self.statuses.add(answer.status)
        if answer.status == 200:
            right = questions.is_right(answer, row)
            self.right += right
            self.wrong += not right
            self.longest_ms = max(self.longest_ms, 1e3 * seconds)
        elif answer.status == 503 and int(answer.header("retry-after") or 0) >= 1:
            self.told_to_wait += 1
        elif answer.status == 0:
            self.lost += 1
        else:
            self.failed += 1


PICTURES: Final[npt.NDArray[np.uint8]] = np.random.default_rng(2).integers(
    0, 200, (CLIENTS, SIZE, SIZE, 3), dtype=np.uint8
)


def _is_right(answer: Answer, row: int) -> bool:
    """Whether an answer is what the tiny guard says of `PICTURES[row]`, computed in float64."""
    pixels = PICTURES[row].astype(np.float64)
    score = pixels.sum() / (VALUES * 255)
    logits = (pixels / 2 if score > THRESHOLD else pixels).ravel() @ WEIGHTS + BIASES
    return _is(answer, logits, score, flagged=bool(score > THRESHOLD))


def _is_right_of_drop_in(answer: Answer, row: int) -> bool:
    """Likewise of the drop-in guard on pictures whose values are all `row`."""
    return _is(answer, row + np.arange(4.0), float(row), flagged=False)


def _is(answer: Answer, logits: npt.NDArray[Any], score: float, *, flagged: bool) -> bool:
    found = outputs_of(answer)
    return (
        np.array_equal(found["logits"][0], logits.astype(np.float32))
        and bool(found["score"][0] == np.float32(score))
        and int(found["label"][0]) == int(logits.argmax())
        and bool(found["flagged"][0]) is flagged
    )


@final
@dataclass(frozen=True)
class Questions:
    """What each client asks, and whether an answer to it is right."""

    requests: list[bytes]
    is_right: Callable[[Answer, int], bool]


TINY: Final = Questions(
    [infer_request(MODEL, PICTURES[row : row + 1], id=str(row)) for row in range(CLIENTS)],
    _is_right,
)
DROP_IN: Final = Questions(
    [
        infer_request("drop-in", np.full((1, 3, 8, 16), row, np.float32), name="data")
        for row in range(CLIENTS)
    ],
    _is_right_of_drop_in,
)


@contextlib.asynccontextmanager
async def steady(
    port: int, questions: Questions = TINY, *, around: int = AROUND
) -> AsyncIterator[Seen]:
    """Ask during the block, some requests before it and some after; every answer is checked.

    Args:
        port: of the server.
        questions: what is asked.
        around: right answers that are awaited before the block and after it.
    """
    seen = Seen()
    stop = asyncio.Event()
    tasks = [
        asyncio.create_task(_client(port, questions, row, seen, stop)) for row in range(CLIENTS)
    ]
    try:
        await _answers(seen, around)
        yield seen
        await _answers(seen, around)
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def until_told(port: int, seen: Seen) -> None:
    """Ask as fast as can be, until the server says that it stops."""
    stop = asyncio.Event()
    await asyncio.gather(
        *(_client(port, TINY, row, seen, stop, last=True) for row in range(CLIENTS))
    )


async def _client(
    port: int,
    questions: Questions,
    row: int,
    seen: Seen,
    stop: asyncio.Event,
    *,
    last: bool = False,
) -> None:
    connection = await connect(port)
    while not stop.is_set():
        began = time.perf_counter()
        answer = await connection.ask(questions.requests[row])
        seen.take(answer, row, questions, time.perf_counter() - began)
        if last and (answer.status != 200 or answer.header("connection") == "close"):
            break
        if answer.status != 200:
            await asyncio.sleep(BACK_OFF)
        if connection.closed and not stop.is_set():
            connection = await connect(port)
    connection.close()


async def _answers(seen: Seen, count: int) -> None:
    wanted = seen.right + count
    while seen.right < wanted and not seen.wrong + seen.failed + seen.lost:
        await asyncio.sleep(0.005)
