"""The guard as a Python object: pictures in, verdicts out."""

from os import PathLike
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt

from prn_guard.contract import GRAPH_FILE, Manifest
from prn_guard.errors import ArtifactError, DeviceError, InvalidArgumentError
from prn_guard.images import check_batch
from prn_guard.preparation import to_tensor
from prn_guard.session import Device, open_session, runtime_errors
from prn_guard.verdict import Verdict


@final
class Guard:
    """A guarded classifier, loaded from an artifact folder.

    One guard may be used by several threads at a time: it keeps no state between calls.

    Args:
        folder: what `python -m export` wrote; every file in it is verified before it is loaded.
        device: "cpu", or "cuda" for the first visible NVIDIA GPU.

    Raises:
        InvalidArgumentError: `device` is neither "cpu" nor "cuda".
        ArtifactError: a file is missing or changed, or the graph does not keep the contract.
        DeviceError: "cuda" was asked for and cannot be had.
    """

    def __init__(self, folder: str | PathLike[str], *, device: Device = "cpu") -> None:
        self._place = Path(folder) / GRAPH_FILE
        self._manifest, self._session = open_session(Path(folder), device)
        self._errors = runtime_errors()

    @property
    def manifest(self) -> Manifest:
        """What stands beside the graph: input, classes, threshold, versions, parity, digests."""
        return self._manifest

    @property
    def provider(self) -> str:
        """The onnxruntime provider that runs the graph, e.g. "CUDAExecutionProvider"."""
        return str(self._session.get_providers()[0])

    def classify(self, images: npt.NDArray[np.uint8], *, batch_size: int = 64) -> Verdict:
        """Classify pictures, rectifying those that look perturbed.

        Args:
            images: `(B, H, W, C)` uint8 in 0..255, RGB or gray, B at least 1; sizes as in
                `manifest.input`.
            batch_size: pictures that the graph sees at once. It bounds memory and does not change
                any verdict beyond float32 rounding.

        Returns:
            One verdict of B rows, in the order of `images`.

        Raises:
            InvalidArgumentError: `images` is not such a batch, or `batch_size` is below 1.
            ArtifactError: the graph answers with a logit or score that is not finite, or with
                flags that do not follow the manifest's threshold. A score that is not a number
                compares as "not flagged", so passing it on would let the picture through.
            DeviceError: the device cannot run the batch, e.g. for want of memory.
        """
        batch = check_batch(images, self._manifest.input)
        if batch_size < 1:
            raise InvalidArgumentError(f"batch_size is {batch_size}; expected at least 1.")
        return Verdict.concatenate(
            [
                self._classify_chunk(batch[start : start + batch_size])
                for start in range(0, len(batch), batch_size)
            ]
        )

    def _classify_chunk(self, chunk: npt.NDArray[np.uint8]) -> Verdict:
        tensor = self._manifest.tensor
        try:
            logits, label, score, flagged = self._session.run(
                list(self._manifest.names.all()),
                {tensor.name: to_tensor(chunk, self._manifest.input, tensor)},
            )
        except self._errors as error:
            raise DeviceError(
                f"{self.provider} could not run a batch of {len(chunk)} pictures: {error}. Pass a "
                "smaller batch_size."
            ) from error
        broken = ~(np.isfinite(logits).all(axis=1) & np.isfinite(score))
        if broken.any():
            raise ArtifactError(
                f"{self._place} answers {int(broken.sum())} of {len(chunk)} pictures with logits "
                "or scores that are not finite, so nothing can be said about them. Export the "
                "guard anew, with a float32 rectifier if it has a float16 one."
            )
        threshold = np.float32(self._manifest.detection.threshold)
        if not np.array_equal(flagged, score > threshold):
            raise ArtifactError(
                f"{self._place} does not flag by the threshold {threshold} of its manifest. One of "
                "the two was edited; export the guard anew."
            )
        return Verdict(label=label, logits=logits, score=score, flagged=flagged)
