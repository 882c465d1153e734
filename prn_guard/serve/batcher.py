"""Dynamic batching: requests that wait are merged into one run."""

from collections.abc import Callable, Sequence
from typing import final

from prn_guard.serve.engine import Outcome, Runner, Values

OnBatch = Callable[[int, float, float], None]


@final
class Batcher:
    """Skeleton; signatures are final.

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
        raise NotImplementedError

    async def submit(
        self, values: Values, *, deadline: float | None = None, extras: Sequence[str] = ()
    ) -> Outcome:
        """Answer one request's pictures.

        Args:
            values: `(N, ...)`, N at least 1.
            deadline: seconds from now, on the monotonic clock.
            extras: further outputs of the graph that are wanted.

        Raises:
            QueueFullError: no room for N more.
            DeadlineExceededError: the deadline passed.
            StoppingError: `stop` was called.
            InferenceFailedError: the engine raised on these pictures.
        """
        raise NotImplementedError

    @property
    def waiting(self) -> int:
        """Pictures that wait for a session."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Answer everything accepted, then end the workers; later submits raise StoppingError."""
        raise NotImplementedError
