"""What the operator's page shows of one picture: what was removed, and the label without it."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from prn_guard.bench_sessions import bare_bytes, bare_input
from prn_guard.contract import BARE_FILE, InputSpec, Manifest
from prn_guard.errors import ArtifactError
from prn_guard.execution import run_bound
from prn_guard.preparation import to_tensor
from prn_guard.serve.answers import ClassAnswer, Explanation
from prn_guard.serve.engine import Outcome
from prn_guard.session import Device, load_graph

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_GREY: Final = 128
_REACH: Final = 127

Picture = npt.NDArray[np.uint8]


@final
class BareClassifier:
    """The classifier without its guard, for comparison; its file lies in the artifact.

    Args:
        folder: the artifact.
        manifest: its.
        device: that runs it.
        threads: that run one operator.

    Raises:
        ArtifactError: the file is missing, or another one than the guard's.
        DeviceError: the device cannot be had.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        device: Device = "cpu",
        threads: int | None = None,
    ) -> None:
        content, _ = bare_bytes(folder, manifest, None)
        self._manifest = manifest
        self._session: InferenceSession = load_graph(
            content, device, folder / BARE_FILE, threads=threads
        )
        self._name, self._tensor, self._dtype = bare_input(self._session, manifest.input)
        fixed = self._session.get_inputs()[0].shape[0]
        self._batch = fixed if isinstance(fixed, int) else 1
        self._outputs = [output.name for output in self._session.get_outputs()]

    def classify(self, picture: npt.NDArray[np.float32], spec: InputSpec) -> ClassAnswer:
        """Label and probability of one picture.

        Args:
            picture: `(H, W, C)` float32 in 0..255, RGB or gray; rounded for a graph of uint8.
            spec: of the classifier.

        Raises:
            ArtifactError: it answers no logits.
            DeviceError: the device cannot run it.
        """
        batch = np.repeat(picture[None], self._batch, axis=0)
        if self._tensor.dtype == "uint8":
            batch = batch.round()
        values = to_tensor(batch, spec, self._tensor).astype(self._dtype)
        answers = run_bound(self._session, self._name, np.ascontiguousarray(values), self._outputs)
        shape = (self._batch, len(self._manifest.class_names))
        for logits in answers:
            if logits.shape == shape:
                return class_answer(logits[0], self._manifest.class_names)
        raise ArtifactError(f"{BARE_FILE} answers no logits {shape}. Export the guard anew.")


def class_answer(
    logits: npt.NDArray[np.floating], names: Sequence[str], label: int | None = None
) -> ClassAnswer:
    """Label, name and softmax probability.

    Args:
        logits: `(K,)`.
        names: of the K classes.
        label: where it is known; else that of the highest logit.
    """
    shifted = logits.astype(np.float64) - logits.max()
    powers = np.exp(shifted)
    chosen = int(logits.argmax()) if label is None else label
    return {
        "label": chosen,
        "class_name": names[chosen],
        "probability": float(powers[chosen] / powers.sum()),
    }


def explain(
    picture: Picture, outcome: Outcome, manifest: Manifest, bare: BareClassifier | None
) -> Explanation:
    """What was seen, what was removed, and what the classifier says before and after.

    Args:
        picture: `(H, W, C)` uint8, as the guard took it.
        outcome: of it alone, with the rectified picture where the graph answers with it.
        manifest: of the guard.
        bare: the classifier without its guard, where there is one.
    """
    name = manifest.names.rectified
    rectified = None if name is None else outcome.extras[name][0] * np.float32(255)
    guarded = class_answer(
        outcome.verdict.logits[0], manifest.class_names, int(outcome.verdict.label[0])
    )
    flagged = bool(outcome.verdict.flagged[0])
    before = None if flagged else guarded
    after = guarded if flagged else None
    if bare is not None and before is None:
        before = bare.classify(picture.astype(np.float32), manifest.input)
    if bare is not None and after is None and rectified is not None:
        after = bare.classify(rectified, manifest.input)
    shown = _removed(picture, rectified)
    return {
        "input_png": _png(picture),
        "rectified_png": None if rectified is None else _png(_rounded(rectified)),
        "removed_png": None if shown is None else _png(shown[0]),
        "removed_factor": None if shown is None else shown[1],
        "removed_largest": None if shown is None else shown[2],
        "before": before,
        "after": after,
    }


def _removed(
    picture: Picture, rectified: npt.NDArray[np.float32] | None
) -> tuple[Picture, float, float] | None:
    """The removed part around mid-grey, the factor that it was scaled with, and its largest value.

    The factor is what brings the largest value to white or black, at least 1: a picture of which
    nothing was removed stays grey instead of showing rounding.
    """
    if rectified is None:
        return None
    removed = picture.astype(np.float64) - rectified
    largest = float(np.abs(removed).max())
    factor = max(_REACH / max(largest, 1.0), 1.0)
    return _rounded(_GREY + factor * removed), factor, largest


def _rounded(values: npt.NDArray[np.floating]) -> Picture:
    return values.round().clip(0, 255).astype(np.uint8)


def _png(picture: Picture) -> str:
    stream = io.BytesIO()
    pixels = picture[..., 0] if picture.shape[2] == 1 else picture
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
