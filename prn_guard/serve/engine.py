"""The sessions that answer, one for each device, and what one batch gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import numpy as np
import numpy.typing as npt

from prn_guard.contract import GRAPH_FILE, Manifest
from prn_guard.errors import ArtifactError
from prn_guard.execution import check_answer, grey, pad, run_bound
from prn_guard.preparation import to_tensor
from prn_guard.session import cuda_index, open_session
from prn_guard.verdict import Verdict

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Values = npt.NDArray[Any]
"""`(N, ...)` of the graph's input: uint8 or float32, as the manifest's `tensor` says."""

# Else the threads of a session that has just run spin on, and take the cores from the event loop
# and from the other sessions.
_SHARED: Final = {"session.force_spinning_stop": "1"}


@final
@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Rows of one request or of several, in order."""

    verdict: Verdict
    extras: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Further outputs of the graph that were asked for, by name; the first axis is the batch's."""

    def rows(self, start: int, stop: int) -> "Outcome":
        """The rows of one request out of a batch; they keep the whole batch's memory alive."""
        if start == 0 and stop == len(self.verdict):
            return self
        part = slice(start, stop)
        verdict = self.verdict
        return Outcome(
            Verdict(
                label=verdict.label[part],
                logits=verdict.logits[part],
                score=verdict.score[part],
                flagged=verdict.flagged[part],
            ),
            {name: values[part] for name, values in self.extras.items()},
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Outcome"]) -> "Outcome":
        """One outcome over the rows of all `parts` (at least one), in their order."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            Verdict.concatenate([part.verdict for part in parts]),
            {
                name: np.concatenate([part.extras[name] for part in parts])
                for name in parts[0].extras
            },
        )


class Runner(Protocol):
    """What the batcher needs of an engine; tests put a fake in its place."""

    @property
    def sessions(self) -> int:
        """How many batches may run at a time, each on a session of its own."""

    def run(self, values: Values, *, session: int = 0, extras: Sequence[str] = ()) -> Outcome:
        """Answer one batch; blocks, and is called from a thread that belongs to the session."""


@final
class Engine:
    """One session of the guarded graph on each device.

    Args:
        folder: the artifact; every file is verified once for each device.
        devices: as "cpu", "cuda:0", "cuda:1"; one twice has two sessions.
        max_batch: most pictures in one run.
        threads: that run one operator on the CPU; None takes every core.
        public_key: the manifest must be signed by it.

    Raises:
        PrnGuardError: as `open_session`.
    """

    def __init__(
        self,
        folder: Path,
        devices: Sequence[str] = ("cpu",),
        *,
        max_batch: int = 32,
        threads: int | None = None,
        public_key: Path | None = None,
    ) -> None:
        self._place = folder / GRAPH_FILE
        opened = [
            open_session(folder, device, public_key=public_key, threads=threads, entries=_SHARED)
            for device in devices
        ]
        self.manifest: Manifest = opened[0][0]
        if any(manifest != self.manifest for manifest, _ in opened):
            raise ArtifactError(f"{folder} was exchanged while it was loaded. Start again.")
        self._sessions: list[InferenceSession] = [session for _, session in opened]
        on_gpu = [cuda_index(device) is not None for device in devices]
        self._buckets = [_buckets(max_batch) if gpu else () for gpu in on_gpu]
        self._largest = max_batch

    @property
    def sessions(self) -> int:
        """How many batches may run at a time."""
        return len(self._sessions)

    @property
    def providers(self) -> list[str]:
        """The onnxruntime provider that each session runs on."""
        return [str(session.get_providers()[0]) for session in self._sessions]

    @property
    def extras(self) -> dict[str, tuple[str, tuple[int | str | None, ...]]]:
        """The graph's further outputs whose first axis is the batch's: type and shape by name."""
        answers = set(self.manifest.names.all())
        return {
            output.name: (output.type, tuple(output.shape))
            for output in self._sessions[0].get_outputs()
            if output.name not in answers and output.shape and not isinstance(output.shape[0], int)
        }

    def warm_up(self, session: int = 0) -> None:
        """Run every batch size that the session will see; on a GPU each first one takes seconds."""
        for size in self._buckets[session] or (1, self._largest):
            pixels = grey(self.manifest.input, size)
            self.run(to_tensor(pixels, self.manifest.input, self.manifest.tensor), session=session)

    def run(self, values: Values, *, session: int = 0, extras: Sequence[str] = ()) -> Outcome:
        """Answer one batch, and check the answers.

        Args:
            values: `(N, ...)` of the graph's input, C-contiguous, N at least 1.
            session: which one runs it.
            extras: further outputs of the graph to copy.

        Raises:
            ArtifactError: the answers do not keep the contract.
            DeviceError: the device cannot run the batch.
        """
        count = len(values)
        padded = pad(values, self._buckets[session])
        names = self.manifest.names.all()
        logits, label, score, flagged, *further = run_bound(
            self._sessions[session], self.manifest.tensor.name, padded, [*names, *extras]
        )
        verdict = Verdict(label=label, logits=logits, score=score, flagged=flagged)
        check_answer(verdict, self.manifest, len(padded), self._place)
        for name, value in zip(extras, further, strict=True):
            if value.shape[:1] != (len(padded),):
                raise ArtifactError(
                    f"{self._place} answers {len(padded)} pictures with {name} of shape "
                    f"{value.shape}; expected as many rows. Ask for other outputs."
                )
        return Outcome(verdict, dict(zip(extras, further, strict=True))).rows(0, count)


def _buckets(max_batch: int) -> tuple[int, ...]:
    """Powers of two up to `max_batch`, and itself: on a GPU every size costs a search."""
    powers = [1 << exponent for exponent in range(max_batch.bit_length())]
    return tuple(sorted({*powers, max_batch}))
