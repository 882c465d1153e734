"""The guard as a Python object: pictures in, verdicts out."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt

from prn_guard.contract import GRAPH_FILE, Manifest
from prn_guard.errors import InvalidArgumentError
from prn_guard.execution import check_buckets, examine, grey, pad, run
from prn_guard.images import check_batch
from prn_guard.preparation import to_tensor
from prn_guard.session import Device, open_session
from prn_guard.verdict import Examination, Verdict


@final
class Guard:
    """A guarded classifier, loaded from an artifact folder.

    One guard may be used by several threads at a time: it keeps no state between calls.

    Args:
        folder: what `python -m export` wrote; every file in it is verified before it is loaded.
        device: "cpu", "cuda" for the first visible NVIDIA GPU, or "cuda:1" for the second.
        public_key: a PEM file of an Ed25519 key; the manifest must then be signed by it.
        buckets: batch sizes that the graph is to see; smaller batches are padded up to the next
            and larger ones cut at the largest. None: powers of two up to 64 on the GPU, where
            every new size costs a search for the fastest convolutions, and any size on the CPU.

    Raises:
        InvalidArgumentError: `device` is none of these, `buckets` is no sequence of
            integers of at least 1, or the key cannot be used.
        ArtifactError: a file is missing or changed, the signature is missing or wrong, or the graph
            does not keep the contract.
        DeviceError: "cuda" was asked for and cannot be had.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        device: Device = "cpu",
        public_key: str | PathLike[str] | None = None,
        buckets: Sequence[int] | None = None,
    ) -> None:
        self._place = Path(folder) / GRAPH_FILE
        self._buckets = check_buckets(buckets, device)
        key = None if public_key is None else Path(public_key)
        self._manifest, self._session = open_session(Path(folder), device, public_key=key)

    @property
    def manifest(self) -> Manifest:
        """What stands beside the graph: input, classes, threshold, versions, parity, digests."""
        return self._manifest

    @property
    def provider(self) -> str:
        """The onnxruntime provider that runs the graph, e.g. "CUDAExecutionProvider"."""
        return str(self._session.get_providers()[0])

    def warm_up(self) -> None:
        """Run every bucket once, on grey pictures, or one picture where there are no buckets.

        The first batch of a size takes longer than later ones, on the GPU by seconds.

        Raises:
            DeviceError: the device cannot run a bucket, e.g. for want of memory.
        """
        for size in self._buckets or (1,):
            run(self._session, self._manifest, self._place, grey(self._manifest.input, size))

    def classify(self, images: npt.NDArray[np.uint8], *, batch_size: int = 64) -> Verdict:
        """Classify pictures, rectifying those that look perturbed.

        Args:
            images: `(B, H, W, C)` uint8 in 0..255, RGB or gray, B at least 1; sizes as in
                `manifest.input`.
            batch_size: pictures that the graph sees at once, at most the largest bucket. It bounds
                memory and does not change any verdict beyond float32 rounding.

        Returns:
            One verdict of B rows, in the order of `images`.

        Raises:
            InvalidArgumentError: `images` is not such a batch, or `batch_size` is no integer of
                at least 1.
            ArtifactError: the graph answers with a logit or score that is not finite, or with
                labels or flags that do not follow from them.
            DeviceError: the device cannot run the batch, e.g. for want of memory.
        """
        return Verdict.concatenate(
            [self._classify_chunk(chunk) for chunk in self._chunks(images, batch_size)]
        )

    def examine(self, images: npt.NDArray[np.uint8], *, batch_size: int = 64) -> Examination:
        """Classify pictures, and show what the rectifier made of each of them.

        Args:
            images: as for `classify`.
            batch_size: likewise.

        Returns:
            The verdict, and the rectified pictures where the guard was exported `--with-rectified`.

        Raises:
            InvalidArgumentError: as for `classify`.
            ArtifactError: as for `classify`, or a rectified picture is no picture in [0, 1].
            DeviceError: as for `classify`.
        """
        return Examination.concatenate(
            [self._examine_chunk(chunk) for chunk in self._chunks(images, batch_size)]
        )

    def _chunks(self, images: object, batch_size: int) -> list[npt.NDArray[np.uint8]]:
        """A batch, checked, in parts that the graph may see at once."""
        batch = check_batch(images, self._manifest.input)
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise InvalidArgumentError(
                f"batch_size is {batch_size!r}; expected a whole number of at least 1."
            )
        step = min(batch_size, max(self._buckets, default=batch_size))
        return [batch[at : at + step] for at in range(0, len(batch), step)]

    def _classify_chunk(self, chunk: npt.NDArray[np.uint8]) -> Verdict:
        padded = pad(chunk, self._buckets)
        return run(self._session, self._manifest, self._place, padded).first(len(chunk))

    def _examine_chunk(self, chunk: npt.NDArray[np.uint8]) -> Examination:
        manifest = self._manifest
        values = to_tensor(pad(chunk, self._buckets), manifest.input, manifest.tensor)
        return examine(self._session, manifest, self._place, values).first(len(chunk))
