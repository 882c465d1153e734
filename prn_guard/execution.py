"""Run the graph on one batch and check what it answers. No state is kept between calls."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from prn_guard.contract import InputSpec, Manifest
from prn_guard.errors import ArtifactError, DeviceError, InvalidArgumentError
from prn_guard.preparation import to_tensor
from prn_guard.verdict import Examination, Verdict

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Pixels = npt.NDArray[np.uint8]
Scalar = TypeVar("Scalar", bound=np.generic)

LARGEST_BUCKET = 64


def runtime_errors() -> tuple[type[Exception], ...]:
    """The exceptions that onnxruntime raises; they share no base below `Exception`."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    own = (
        value
        for value in vars(native).values()
        if isinstance(value, type) and issubclass(value, Exception)
    )
    return (*own, RuntimeError, ValueError)


def check_buckets(buckets: Sequence[int] | None, device: str) -> tuple[int, ...]:
    """The batch sizes that the graph is to see, ascending; none where it may see any.

    Args:
        buckets: as the caller wants them. None: powers of two up to 64 on the GPU, where every new
            size costs a search for the best convolutions; any size on the CPU, where padding only
            costs time.
        device: "cpu", "cuda" or "cuda:1".

    Raises:
        InvalidArgumentError: no sequence, an empty one, a number below 1, or something else
            than integers.
    """
    if buckets is None:
        powers = (1 << exponent for exponent in range(LARGEST_BUCKET.bit_length()))
        return tuple(powers) if device.startswith("cuda") else ()
    if (
        not isinstance(buckets, Sequence)
        or not buckets
        or not all(type(size) is int and size >= 1 for size in buckets)
    ):
        raise InvalidArgumentError(
            f"buckets is {buckets!r}; expected batch sizes of at least 1, as (1, 8, 64), or None "
            "for the device's own."
        )
    return tuple(sorted(set(buckets)))


def pad(images: npt.NDArray[Scalar], buckets: tuple[int, ...]) -> npt.NDArray[Scalar]:
    """Repeat the last picture up to the next bucket; more than the largest stay as they are."""
    size = next((bucket for bucket in buckets if bucket >= len(images)), len(images))
    if size == len(images):
        return images
    return np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])


def grey(spec: InputSpec, count: int) -> Pixels:
    """`(count, H, W, C)` pictures of mid-grey."""
    return np.full((count, spec.height, spec.width, spec.channels), 128, dtype=np.uint8)


def run(session: "InferenceSession", manifest: Manifest, place: Path, images: Pixels) -> Verdict:
    """Classify one batch.

    Args:
        session: of the graph; several threads may pass the same one.
        manifest: beside the graph.
        place: the graph's file, for messages.
        images: `(B, H, W, C)` uint8, checked.

    Returns:
        B rows.

    Raises:
        ArtifactError: the answers do not keep the contract.
        DeviceError: the device cannot run the batch.
    """
    return answer(session, manifest, place, to_tensor(images, manifest.input, manifest.tensor))


def answer(
    session: "InferenceSession", manifest: Manifest, place: Path, values: npt.NDArray[Any]
) -> Verdict:
    """Classify one batch of pictures that `to_tensor` has brought into the graph's terms.

    Raises:
        ArtifactError: the answers do not keep the contract.
        DeviceError: the device cannot run the batch.
    """
    given = run_bound(session, manifest.tensor.name, values, manifest.names.all())
    return _verdict(given, manifest, len(values), place)


def examine(
    session: "InferenceSession", manifest: Manifest, place: Path, values: npt.NDArray[Any]
) -> Examination:
    """As `answer`, with the rectified pictures where the graph answers with them.

    Raises:
        ArtifactError: the answers do not keep the contract.
        DeviceError: the device cannot run the batch.
    """
    names = manifest.names
    given = run_bound(session, manifest.tensor.name, values, (*names.all(), *names.on_request))
    verdict = _verdict(given[:4], manifest, len(values), place)
    rectified = given[4] if names.on_request else None
    if rectified is not None:
        _check_rectified(rectified, manifest.input, len(values), place)
    return Examination(verdict, rectified)


def _verdict(given: list[npt.NDArray[Any]], manifest: Manifest, count: int, place: Path) -> Verdict:
    logits, label, score, flagged = given
    verdict = Verdict(label=label, logits=logits, score=score, flagged=flagged)
    check_answer(verdict, manifest, count, place)
    return verdict


def _check_rectified(
    rectified: npt.NDArray[np.float32], spec: InputSpec, count: int, place: Path
) -> None:
    expected = (count, spec.height, spec.width, spec.channels)
    # Written so that what is not a number is refused too.
    if rectified.shape != expected or not (rectified.min() >= 0 and rectified.max() <= 1):
        raise ArtifactError(
            f"{place} answers with rectified pictures {rectified.shape} from "
            f"{rectified.min():g} to {rectified.max():g}; expected {expected} in [0, 1]. Export "
            "the guard anew."
        )


def run_bound(
    session: "InferenceSession", name: str, values: npt.NDArray[Any], outputs: Sequence[str]
) -> list[npt.NDArray[Any]]:
    """Run any graph of one input on a batch; only the named outputs are copied to the host.

    Args:
        session: of the graph.
        name: the input's.
        values: what it is to take, batch first, C-contiguous.
        outputs: names of those that are wanted.

    Returns:
        One array per name.

    Raises:
        DeviceError: the device cannot run the batch.
    """
    binding = session.io_binding()
    try:
        binding.bind_cpu_input(name, values)
        for output in outputs:
            binding.bind_output(output, "cpu")
        session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())
    except runtime_errors() as error:
        size = len(values)
        advice = " Pass a smaller batch size." if size > 1 else ""
        raise DeviceError(
            f"{session.get_providers()[0]} could not run a batch of {size} pictures: "
            f"{error}.{advice}"
        ) from error


def check_answer(verdict: Verdict, manifest: Manifest, count: int, place: Path) -> None:
    """Refuse answers that do not keep the contract.

    A score that is not a number compares as "not flagged", so passing it on would let the picture
    through.

    Raises:
        ArtifactError: not `count` rows over the manifest's classes; logits or scores that are not
            finite; labels that are not those of the highest logits; flags that do not follow the
            threshold.
    """
    logits, classes = verdict.logits, len(manifest.class_names)
    rows = [verdict.label.shape, verdict.score.shape, verdict.flagged.shape]
    if logits.shape != (count, classes) or rows != [(count,)] * 3:
        raise ArtifactError(
            f"{place} answers {count} pictures with logits {logits.shape}, label, score and "
            f"flagged {rows}; expected {count} rows each and {classes} classes. Export the guard "
            "anew."
        )
    broken = ~(np.isfinite(logits).all(axis=1) & np.isfinite(verdict.score))
    if broken.any():
        raise ArtifactError(
            f"{place} answers {int(broken.sum())} of {count} pictures with logits or scores that "
            "are not finite, so nothing can be said about them. Export the guard anew, in fp32 if "
            "it is in fp16."
        )
    threshold = np.float32(manifest.detection.threshold)
    if not np.array_equal(verdict.flagged, verdict.score > threshold):
        raise ArtifactError(
            f"{place} does not flag by the threshold {threshold} of its manifest. One of the two "
            "was edited; export the guard anew."
        )
    inside = (verdict.label >= 0) & (verdict.label < classes)
    chosen = logits[np.arange(count), np.where(inside, verdict.label, 0)]
    if not (inside & (chosen == logits.max(axis=1))).all():  # of equal logits, either may be named
        raise ArtifactError(
            f"{place} answers with labels that are not those of its highest logits. It was edited; "
            "export the guard anew."
        )
