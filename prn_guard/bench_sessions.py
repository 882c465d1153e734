"""The two sessions that a benchmark compares, opened alike, and what they run on."""

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from prn_guard.artifact import read_artifact
from prn_guard.bench import Run
from prn_guard.contract import BARE_FILE, InputSpec, Manifest
from prn_guard.errors import ArtifactError, DeviceError, InvalidArgumentError
from prn_guard.execution import runtime_errors
from prn_guard.session import Device

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_PROVIDERS: Final[dict[Device, list[Any]]] = {
    "cpu": ["CPUExecutionProvider"],
    # As the guard itself is run: TF32 is off, and it is off for both.
    "cuda": [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"],
}
_DTYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}
_LOG_FATAL_ONLY = 4

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Compared:
    """Both graphs, ready to run batches of the same pictures."""

    manifest: Manifest
    guarded: "InferenceSession"
    bare: "InferenceSession"
    bare_batch: int | None
    """The one batch size that the bare graph takes; None where it takes any."""


def open_both(folder: Path, *, bare: Path | None, device: Device, threads: int) -> Compared:
    """Verify the folder and open both graphs with the same providers, options and threads.

    Raises:
        ArtifactError: the folder or a graph is damaged or foreign, or no bare classifier is named.
        DeviceError: "cuda" cannot be had.
    """
    manifest, graph = read_artifact(folder)
    content = _bare_bytes(folder, manifest, bare)
    guarded = _open(graph, device, threads, place=folder)
    session = _open(content, device, threads, place=bare or folder / BARE_FILE)
    first = session.get_inputs()[0].shape[:1]
    fixed = first[0] if first and isinstance(first[0], int) else None
    return Compared(manifest, guarded, session, fixed)


def runs_of(both: Compared, batch_sizes: Sequence[int], *, seed: int) -> tuple[Run, Run]:
    """Functions that run one batch of the same random pictures: guarded, bare.

    The pictures are brought to each graph's dtype and layout here, once, not when they are run.

    Raises:
        InvalidArgumentError: a batch size that the bare graph does not take.
        ArtifactError: the bare graph takes something else than one picture of the guard's size.
    """
    if both.bare_batch is not None and set(batch_sizes) != {both.bare_batch}:
        raise InvalidArgumentError(
            f"The bare classifier's batch axis is fixed at {both.bare_batch}, so only that size "
            f"can be compared; asked for {list(batch_sizes)}. Pass --batch-sizes {both.bare_batch}."
        )
    spec, tensor = both.manifest.input, both.manifest.tensor
    channels, height, width = spec.shape
    drawn = np.random.default_rng(seed).integers(
        0, 256, (max(batch_sizes), height, width, channels), dtype=np.uint8
    )
    ours = drawn if tensor.dtype == "uint8" else _scaled(drawn, spec)
    ours = ours if tensor.layout == "nhwc" else ours.transpose(0, 3, 1, 2)
    names = list(both.manifest.names.all())
    return (
        _run(both.guarded, tensor.name, np.ascontiguousarray(ours), names),
        _run(both.bare, *_for_bare(both.bare, drawn, spec), None),
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


def _bare_bytes(folder: Path, manifest: Manifest, named: Path | None) -> bytes:
    listed = {entry.name: entry.sha256 for entry in manifest.files}
    expected = manifest.classifier.file_sha256 if named else listed.get(BARE_FILE)
    if named is None and expected is None:
        raise ArtifactError(
            f"{folder} holds no bare classifier to compare with. Export the guard with --with-bare "
            f"(it adds {BARE_FILE}), or pass --bare FILE, the ONNX file that was wrapped."
        )
    path = named or folder / BARE_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}. Name an ONNX file.") from error
    found = hashlib.sha256(content).hexdigest()
    if expected is not None and found != expected:
        raise ArtifactError(
            f"{path} is not the classifier inside the guard: its sha256 is {found}, the manifest "
            f"states {expected}. Name the file that was wrapped."
        )
    return content


def _open(graph: bytes, device: Device, threads: int, *, place: Path) -> "InferenceSession":
    import onnxruntime

    providers = _PROVIDERS[device]
    if device == "cuda":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise DeviceError("This onnxruntime was built without CUDA. Pass --device cpu.")
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY
    options.intra_op_num_threads = threads
    # As in `session`: no unverified weights from beside the working directory.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    try:
        session = onnxruntime.InferenceSession(
            graph, sess_options=options, providers=providers, enable_fallback=0
        )
    except runtime_errors() as error:
        raise ArtifactError(
            f"{place} does not load on {device}: {error}. Name an ONNX file whose weights are "
            "inside it."
        ) from error
    if device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise DeviceError(
            "CUDA did not start. Install prn-guard[serving] and an NVIDIA driver, or pass "
            "--device cpu."
        )
    return session


def _for_bare(session: "InferenceSession", drawn: Array, spec: InputSpec) -> tuple[str, Array]:
    """Name of the bare graph's input, and the pictures as it takes them."""
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    dtype = _DTYPES.get(inputs[0].type) if len(inputs) == 1 else None
    layouts = [layout for layout in ("nchw", "nhwc") if _fits(shape, spec, layout)]
    if dtype is None or not layouts:
        found = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs)
        raise ArtifactError(
            f"The bare classifier takes {found}; expected one input, float32, float16 or uint8, "
            f"of pictures (C, H, W) = {spec.shape}. Name the file that was wrapped."
        )
    layout = spec.layout if spec.layout in layouts else layouts[0]
    scaled = _scaled(drawn, spec) if dtype is not np.uint8 else drawn
    placed = scaled if layout == "nhwc" else scaled.transpose(0, 3, 1, 2)
    return inputs[0].name, np.ascontiguousarray(placed.astype(dtype))


def _fits(shape: Sequence[object], spec: InputSpec, layout: str) -> bool:
    channels, height, width = spec.shape
    wanted = spec.shape if layout == "nchw" else (height, width, channels)
    return len(shape) == 4 and all(
        not isinstance(axis, int) or axis == size
        for axis, size in zip(shape[1:], wanted, strict=True)
    )


def _scaled(drawn: Array, spec: InputSpec) -> Array:
    """`(B, H, W, C)` float32 on the classifier's own scale, in its channel order."""
    ordered = drawn[..., ::-1] if spec.channel_order == "bgr" else drawn
    pixels = ordered.astype(np.float32) * np.float32(spec.pixel_range / 255)
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    return np.asarray((pixels - mean) / std, dtype=np.float32)


def _run(session: "InferenceSession", name: str, pictures: Array, outputs: list[str] | None) -> Run:
    return lambda size: session.run(outputs, {name: pictures[:size]})
