"""The sessions that answer, one for each device, and what one batch gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, final

import numpy.typing as npt

from prn_guard.verdict import Verdict

Values = npt.NDArray[Any]
"""`(N, ...)` of the graph's input: uint8 or float32, as the manifest's `tensor` says."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Rows of one request or of several, in order."""

    verdict: Verdict
    extras: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Further outputs of the graph that were asked for, by name; the first axis is the batch's."""


class Runner(Protocol):
    """What the batcher needs of an engine; tests put a fake in its place."""

    @property
    def sessions(self) -> int:
        """How many batches may run at a time, each on a session of its own."""

    def run(self, values: Values, *, session: int = 0, extras: Sequence[str] = ()) -> Outcome:
        """Answer one batch; blocks, and is called from a thread that belongs to the session."""
