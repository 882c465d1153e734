"""Load damaged artifacts in a process of their own, so that a crash or a hang is seen."""

import contextlib
import multiprocessing
import resource
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

Pictures = npt.NDArray[np.uint8]
Outcome = dict[str, Any]

START_SECONDS: Final = 120
MAX_BYTES: Final = 8 << 30
"""Of address space; a graph that asks for more gets an error and not the machine's memory."""


def work(connection: Connection, pictures: Pictures) -> None:
    """Answer every `(folder, public key or None)` that arrives, until None arrives."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    warnings.simplefilter("error")
    import onnxruntime  # noqa: F401 - loaded before the first case, whose time is limited

    import prn_guard.guard  # noqa: F401

    connection.send("ready")
    while (message := connection.recv()) is not None:
        connection.send(load_and_classify(*message, pictures))


def load_and_classify(folder: Path, public_key: Path | None, pictures: Pictures) -> Outcome:
    """What became of one folder: `refused`, `served`, `contract broken` or `other exception`."""
    from prn_guard.errors import PrnGuardError
    from prn_guard.guard import Guard

    try:
        guard = Guard(folder, public_key=public_key)
        verdict = guard.classify(pictures)
    except PrnGuardError as error:
        return {"outcome": "refused", "error": type(error).__name__, "message": str(error)}
    except BaseException as error:
        return {
            "outcome": "other exception",
            "error": type(error).__name__,
            "message": str(error)[:500],
        }
    classes = len(guard.manifest.class_names)
    threshold = np.float32(guard.manifest.detection.threshold)
    kept = (
        verdict.logits.shape == (len(pictures), classes)
        and verdict.label.shape == verdict.score.shape == verdict.flagged.shape == (len(pictures),)
        and bool(np.isfinite(verdict.logits).all() and np.isfinite(verdict.score).all())
        and np.array_equal(verdict.label, verdict.logits.argmax(axis=1))
        and np.array_equal(verdict.flagged, verdict.score > threshold)
    )
    answer = (verdict.label, verdict.logits, verdict.score, verdict.flagged)
    return {"outcome": "served" if kept else "contract broken", "answer": answer}


@final
class Worker:
    """A process that loads folders one after another; started anew after a crash or a hang."""

    def __init__(self, pictures: Pictures, *, seconds: float) -> None:
        self._pictures = pictures
        self._seconds = seconds
        self._start()

    def ask(self, folder: Path, public_key: Path | None) -> Outcome:
        """What became of `folder`; also `crash` and `hang`, after at most `seconds`."""
        self._connection.send((folder, public_key))
        try:
            if self._connection.poll(self._seconds):
                answer: Outcome = self._connection.recv()
                return answer
            outcome = {"outcome": "hang", "message": f"no answer in {self._seconds} s"}
        except EOFError:
            self._process.join()
            outcome = {"outcome": "crash", "message": f"exit code {self._process.exitcode}"}
        self.stop()
        self._start()
        return outcome

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        with contextlib.suppress(OSError):
            self._connection.close()
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, self._pictures), daemon=True)
        self._process.start()
        theirs.close()
        if not self._connection.poll(START_SECONDS) or self._connection.recv() != "ready":
            raise RuntimeError("The worker did not start.")


@contextlib.contextmanager
def worker(pictures: Pictures, *, seconds: float) -> Iterator[Worker]:
    """A worker for the time of a `with` block.

    Args:
        pictures: `(B, H, W, C)` uint8, classified with every guard that loads.
        seconds: the most that one folder may take.
    """
    started = Worker(pictures, seconds=seconds)
    try:
        yield started
    finally:
        started.stop()
