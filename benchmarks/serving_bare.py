"""A bare onnxruntime loop over the graph that is served: the measure of throughput and answers."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.serving_client import Answer, infer_request, outputs_of
from prn_guard.errors import PrnGuardError
from prn_guard.session import open_session

PICTURES: Final = 16
LOGITS: Final = 1e-3
"""Kernels may sum in another order in another batch size; EfficientNet's logits are about 10."""


class BareLoop:
    """The same graph in this process, as onnxruntime runs it by default."""

    def __init__(self, folder: Path) -> None:
        self.model = folder.name
        manifest, self._session = open_session(folder)
        self._input, self._names = manifest.tensor.name, list(manifest.names.all())
        size = (32, *manifest.tensor.shape(manifest.input))
        rng = np.random.default_rng(0)
        self.pictures: npt.NDArray[np.uint8] = rng.integers(0, 256, size, dtype=np.uint8)
        self.requests = [
            infer_request(self.model, self.pictures[row : row + 1]) for row in range(PICTURES)
        ]
        answers = self._session.run(self._names, {self._input: self.pictures[:PICTURES]})
        self._expected = dict(zip(self._names, answers, strict=True))

    def rate(self, sizes: Sequence[int]) -> float:
        """Pictures a second over batches of these sizes."""
        for size in sizes[:3]:
            self._run(size)
        began = time.perf_counter()
        for size in sizes:
            self._run(size)
        return sum(sizes) / (time.perf_counter() - began)

    def check(self, row: int, answer: Answer) -> None:
        """Compare an answer with the session's own on the same picture.

        Raises:
            PrnGuardError: it is another, or none.
        """
        if answer.status != 200:
            raise PrnGuardError(f"A request was answered with {answer.status}: {answer.body!r}")
        found = outputs_of(answer)
        for name, expected in self._expected.items():
            close = np.allclose(found[name], expected[row : row + 1], rtol=1e-4, atol=LOGITS)
            if not close:
                raise PrnGuardError(f"{name} of picture {row} differs from the bare session's.")

    def _run(self, size: int) -> None:
        self._session.run(self._names, {self._input: self.pictures[:size]})
