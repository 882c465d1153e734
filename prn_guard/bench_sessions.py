"""The two sessions that a benchmark compares, opened alike, and what they run on."""

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from prn_guard.artifact import check_model
from prn_guard.bench import Run
from prn_guard.contract import (
    BARE_FILE,
    GRAPH_FILE,
    MAX_GRAPH_BYTES,
    InputSpec,
    InputTensor,
    Manifest,
)
from prn_guard.errors import ArtifactError, InvalidArgumentError
from prn_guard.execution import answer, run_bound
from prn_guard.model_file import read_model_facts
from prn_guard.plain_files import read_bounded
from prn_guard.preparation import to_tensor
from prn_guard.session import Device, load_graph, open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_SCALED: Final[dict[str, type[np.generic]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}
_PRECISIONS: Final = {1: "fp32", 10: "fp16"}
"""By `TensorProto.DataType`; the first where there are no weights at all."""
_PIXELS: Final = "tensor(uint8)"
# Else the threads of the graph that has just run spin on, and take the cores from the other's: on
# a busy machine of 2 cores a guarded batch of 32 took 48 ms rather than 29.
ALONE: Final = {"session.force_spinning_stop": "1"}
_LAYOUTS: Final[tuple[Literal["nchw", "nhwc"], ...]] = ("nchw", "nhwc")


@dataclass(frozen=True)
class Compared:
    """Both graphs, ready to run batches of the same pictures."""

    manifest: Manifest
    place: Path
    """The guarded graph's file, for messages."""
    guarded: "InferenceSession"
    bare: "InferenceSession"
    bare_precision: str
    """"fp32" or "fp16", by the bulk of its weights."""
    bare_verified: bool
    """Whether the manifest states a digest of the bare file, which was then compared."""


def open_both(
    folder: Path,
    *,
    bare: Path | None,
    device: Device,
    threads: int,
    public_key: Path | None = None,
) -> Compared:
    """Verify the folder and open both graphs with the same providers, options and threads.

    Raises:
        ArtifactError: the folder or a graph is damaged or foreign, or no bare classifier is named.
        DeviceError: "cuda" cannot be had.
        InvalidArgumentError: the key cannot be used.
    """
    manifest, guarded = open_session(
        folder, device, public_key=public_key, threads=threads, entries=ALONE
    )
    place = bare or folder / BARE_FILE
    content, verified = bare_bytes(folder, manifest, bare)
    session = load_graph(content, device, place, threads=threads, entries=ALONE)
    return Compared(
        manifest=manifest,
        place=folder / GRAPH_FILE,
        guarded=guarded,
        bare=session,
        bare_precision=_precision(content, place),
        bare_verified=verified,
    )


def runs_of(both: Compared, batch_sizes: Sequence[int], *, seed: int) -> tuple[Run, Run]:
    """Functions that run one batch of the same random pictures: guarded, bare.

    The guarded graph is run as `Guard.classify` runs it, with its answers checked, the bare one
    through the same binding; a batch is one run, neither padded nor cut to buckets. The pictures
    are brought to each graph's dtype and layout here, once: where the guarded graph scales them
    itself that is part of its time, and scaling in NumPy on one side only would be larger on a GPU
    than all that is to be compared.

    Raises:
        InvalidArgumentError: a batch size that the bare graph does not take, or pictures that do
            not fit into memory.
        ArtifactError: the bare graph takes something else than one picture of the guard's size, or
            no digest tells that it is the guard's and it answers another number of classes.
        DeviceError: a bare graph that no digest vouches for cannot run the smallest batch.
    """
    manifest = both.manifest
    name, tensor, dtype = bare_input(both.bare, manifest.input)
    fixed = both.bare.get_inputs()[0].shape[0]
    if isinstance(fixed, int) and set(batch_sizes) != {fixed}:
        raise InvalidArgumentError(
            f"The bare classifier's batch axis is fixed at {fixed}, so only that size can be "
            f"compared; asked for {list(batch_sizes)}. Pass --batch-sizes {fixed}."
        )
    channels, height, width = manifest.input.shape
    try:
        drawn = np.random.default_rng(seed).integers(
            0, 256, (max(batch_sizes), height, width, channels), dtype=np.uint8
        )
        ours = to_tensor(drawn, manifest.input, manifest.tensor)
        theirs = to_tensor(drawn, manifest.input, tensor).astype(dtype, copy=False)
    except MemoryError as error:
        raise InvalidArgumentError(
            f"{max(batch_sizes)} pictures do not fit into memory: {error}. Pass smaller "
            "--batch-sizes."
        ) from error
    outputs = [output.name for output in both.bare.get_outputs()]
    if not both.bare_verified:
        smallest = theirs[: min(batch_sizes)]
        _check_classes(run_bound(both.bare, name, smallest, outputs), manifest, len(smallest))
    return (
        lambda size: answer(both.guarded, manifest, both.place, ours[:size]),
        lambda size: run_bound(both.bare, name, theirs[:size], outputs),
    )


def facts(both: Compared, *, device: Device, threads: int) -> dict[str, Any]:
    """What was measured, on what."""
    import onnxruntime

    return {
        "device": device,
        "provider": both.guarded.get_providers()[0],
        "gpu": _gpu_name() if device == "cuda" else None,
        "cpu": cpu_name(),
        "cores": available_cores(),
        "threads": threads,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "precision": both.manifest.precision,
        "bare_precision": both.bare_precision,
        "bare_verified": both.bare_verified,
        "picture": "{} x {} x {}".format(*both.manifest.input.shape),
    }


def available_cores() -> int:
    """Logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name(path: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's model as Linux states it, or "unknown"."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")


def _gpu_name() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown"
    query = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(  # noqa: S603
            query, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip().replace("\n", ", ") or "unknown"


def bare_bytes(folder: Path, manifest: Manifest, named: Path | None) -> tuple[bytes, bool]:
    """The bare classifier's file, and whether a digest of the manifest vouches for it.

    Args:
        folder: the artifact.
        manifest: its.
        named: a file elsewhere; None for the one in the artifact.

    Raises:
        ArtifactError: there is none, or it is another one than the guard's.
    """
    listed = {entry.name: entry.sha256 for entry in manifest.files}
    expected = manifest.classifier.file_sha256 if named else listed.get(BARE_FILE)
    if named is None and expected is None:
        raise ArtifactError(
            f"{folder} holds no bare classifier to compare with. Export the guard with --with-bare "
            f"(it adds {BARE_FILE}), or pass --bare FILE, the ONNX file that was wrapped."
        )
    path = named or folder / BARE_FILE
    content = read_bounded(path, MAX_GRAPH_BYTES)
    found = hashlib.sha256(content).hexdigest()
    if expected is not None and found != expected:
        raise ArtifactError(
            f"{path} is not the classifier inside the guard: its sha256 is {found}, the manifest "
            f"states {expected}. Name the file that was wrapped."
        )
    if named is None:
        check_model(content, manifest, path)
    return content, expected is not None


def _precision(content: bytes, place: Path) -> str:
    try:
        facts = read_model_facts(content)
    except ArtifactError as error:
        raise ArtifactError(
            f"{place} is no ONNX model: {error}. Name the file that was wrapped."
        ) from error
    octets = dict.fromkeys(_PRECISIONS, 0)
    for values in facts.values:
        if values.data_type in octets:
            octets[values.data_type] += values.end - values.start
    return _PRECISIONS[max(octets, key=lambda kind: octets[kind])]


def _check_classes(answers: Sequence[npt.NDArray[Any]], manifest: Manifest, count: int) -> None:
    classes = len(manifest.class_names)
    if all(one.shape != (count, classes) for one in answers):
        raise ArtifactError(
            f"The bare classifier answers {count} pictures with {[one.shape for one in answers]}; "
            f"expected logits {(count, classes)}, the guard's classes. Name the same classifier."
        )


def bare_input(
    session: "InferenceSession", spec: InputSpec
) -> tuple[str, InputTensor, type[np.generic]]:
    """The bare graph's one input: its name, what `to_tensor` is to make for it, its dtype.

    Raises:
        ArtifactError: the graph takes something else than one picture of the guard's size.
    """
    inputs = session.get_inputs()
    kind = inputs[0].type if len(inputs) == 1 else ""
    layouts = [one for one in _LAYOUTS if len(inputs) == 1 and _fits(inputs[0].shape, spec, one)]
    if kind not in {*_SCALED, _PIXELS} or not layouts:
        found = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs)
        raise ArtifactError(
            f"The bare classifier takes {found or 'nothing'}; expected one input, float32, float16 "
            f"or uint8, of pictures (C, H, W) = {spec.shape}. Name the file that was wrapped."
        )
    name = str(inputs[0].name)
    tensor = InputTensor(
        name=name,
        dtype="uint8" if kind == _PIXELS else "float32",
        layout=spec.layout if spec.layout in layouts else layouts[0],
    )
    return name, tensor, _SCALED.get(kind, np.uint8)


def _fits(shape: Sequence[object], spec: InputSpec, layout: str) -> bool:
    channels, height, width = spec.shape
    wanted = spec.shape if layout == "nchw" else (height, width, channels)
    return len(shape) == 4 and all(
        not isinstance(axis, int) or axis == size
        for axis, size in zip(shape[1:], wanted, strict=True)
    )
