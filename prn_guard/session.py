"""Open an artifact: load the verified graph, check that it keeps the contract, and try it once."""

import contextlib
import io
import os
import re
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from prn_guard.artifact import read_artifact
from prn_guard.contract import GRAPH_FILE, Manifest
from prn_guard.errors import ArtifactError, DeviceError, InvalidArgumentError
from prn_guard.execution import examine, grey, runtime_errors
from prn_guard.preparation import to_tensor

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Device = str
"""\"cpu\", "cuda" for the first visible NVIDIA GPU, or "cuda:1" for the second, and so on."""

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_DEVICE: Final = re.compile(r"cpu|cuda(?::([0-9]{1,3}))?")
_CUDA_OPTIONS: Final = {
    # TF32 in the detector's DCT shifts the log features by 0.84 on average, float32 by 4e-4.
    "use_tf32": "0",
    # Times every algorithm once for each shape of input: the fastest, and why batches have buckets.
    "cudnn_conv_algo_search": "EXHAUSTIVE",
}
_LOG_FATAL_ONLY = 4
_LIBRARIES: Final = threading.Lock()
_INPUT_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
SAFE_ENTRIES: Final = {
    # A graph loaded from bytes would take external weights, unverified, from the working directory.
    "session.model_external_initializers_file_folder_path": os.devnull,
    # Else bytes that are valid protobuf, but have a mark at byte 4, are read as another format.
    "session.load_model_format": "ONNX",
}
"""What every session of a serialised model is configured with."""
_NO_GPU = "Install prn-guard[serving] and an NVIDIA driver, or choose another device than cuda."


def cuda_index(device: Device) -> int | None:
    """Which visible NVIDIA GPU a device is; None for the CPU.

    Raises:
        InvalidArgumentError: neither "cpu" nor "cuda", nor "cuda:" and a number.
    """
    match = _DEVICE.fullmatch(device) if isinstance(device, str) else None
    if match is None:
        raise InvalidArgumentError(
            f"device is {device!r}; expected 'cpu' or 'cuda', or 'cuda:1' for the second GPU."
        )
    return None if device == "cpu" else int(match[1] or 0)


def open_session(
    folder: Path,
    device: Device = "cpu",
    *,
    public_key: Path | None = None,
    threads: int | None = None,
    entries: Mapping[str, str] = MappingProxyType({}),
) -> "tuple[Manifest, InferenceSession]":
    """Verify an artifact folder, load its graph onto `device` and classify one grey picture.

    Every file of the manifest is compared with its size and SHA-256, and the graph is loaded from
    the very bytes that were hashed, so a file that changes in between cannot slip in.

    Args:
        folder: what `python -m export` wrote.
        device: "cpu", "cuda" for the first visible NVIDIA GPU, or "cuda:1" for the second.
        public_key: a PEM file; the manifest must then be signed by that key.
        threads: that run one operator; None leaves it to onnxruntime, which takes every core.
        entries: further entries of onnxruntime's session configuration.

    Returns:
        The manifest, and a session whose first provider is the one asked for. The session never
        changes to another provider later.

    Raises:
        InvalidArgumentError: `device` is none of these, or the key cannot be used.
        ArtifactError: a file is missing, changed or outside the folder; a signature was asked for
            and is missing or wrong; the manifest does not follow its schema; the graph does not
            load, breaks the contract or does not answer a grey picture as it must.
        DeviceError: "cuda" was asked for and cannot be had. The CPU never steps in silently.
    """
    cuda_index(device)
    manifest, graph = read_artifact(folder, public_key=public_key)
    place = folder / GRAPH_FILE
    session = load_graph(graph, device, place, threads=threads, entries=entries)
    _check_contract(session, manifest, place)
    _probe(session, manifest, place, device)
    return manifest, session


def _probe(session: "InferenceSession", manifest: Manifest, place: Path, device: Device) -> None:
    """Classify one grey picture: what is broken for good fails here, not at the first request."""
    values = to_tensor(grey(manifest.input, 1), manifest.input, manifest.tensor)
    try:
        examine(session, manifest, place, values)
    except DeviceError as error:
        if cuda_index(device) is not None:
            raise
        raise ArtifactError(
            f"{place} loads, but fails on a plain grey picture: {error.__cause__}. Export the "
            "guard anew."
        ) from error


def load_graph(
    graph: bytes,
    device: Device,
    place: Path | str,
    *,
    threads: int | None = None,
    entries: Mapping[str, str] = MappingProxyType({}),
) -> "InferenceSession":
    """Open a session of a serialised model on `device`; the CPU never steps in for a GPU.

    The bytes are read as ONNX whatever they look like, and weights in other files are never taken:
    a graph that was verified brings nothing with it that was not.

    Args:
        graph: the serialised model.
        device: "cpu", "cuda" for the first visible NVIDIA GPU, or "cuda:1" for the second, without
            TF32.
        place: what messages call it.
        threads: that run one operator; None leaves it to onnxruntime, which takes every core.
        entries: further entries of onnxruntime's session configuration.

    Raises:
        InvalidArgumentError: `device` is none of these.
        ArtifactError: the graph does not load.
        DeviceError: "cuda" was asked for and cannot be had.
    """
    settings = {**entries, **SAFE_ENTRIES}
    index = cuda_index(device)
    if index is None:
        return _load(graph, [_CPU], place, threads, settings)
    complaints = _load_cuda_libraries()
    try:
        options = {"device_id": str(index), **_CUDA_OPTIONS}
        session = _load(graph, [(_CUDA, options), _CPU], place, threads, settings)
    except ArtifactError as error:
        # Raises in its turn if it is the graph that is at fault.
        _load(graph, [_CPU], place, threads, settings)
        raise DeviceError(f"On the GPU, though not on the CPU: {error} {_NO_GPU}") from error
    if session.get_providers()[0] != _CUDA:
        detail = " ".join(["CUDA did not start.", *complaints.split()])
        raise DeviceError(f"{detail} {_NO_GPU} The log of onnxruntime says why.")
    return session


def _load(
    graph: bytes,
    providers: list[Any],
    place: Path | str,
    threads: int | None,
    settings: Mapping[str, str],
) -> "InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY  # failures arrive as exceptions, with their text
    options.intra_op_num_threads = threads or 0
    for name, value in settings.items():
        options.add_session_config_entry(name, value)
    try:
        # Without enable_fallback=0 onnxruntime answers a failing GPU by moving to the CPU, both
        # here and later in the middle of run().
        return onnxruntime.InferenceSession(
            graph, sess_options=options, providers=providers, enable_fallback=0
        )
    except runtime_errors() as error:
        said = str(error).rstrip(".")
        raise ArtifactError(
            f"{place} does not load: {said}. Export it anew, with all weights in the one file; if "
            "it loads elsewhere, install the onnxruntime that is used there."
        ) from error


def _load_cuda_libraries() -> str:
    """Load CUDA and cuDNN from where pip put them; what onnxruntime said of those it missed."""
    import onnxruntime

    # Presence here proves nothing, absence does: the installed build has no CUDA at all.
    if _CUDA not in onnxruntime.get_available_providers():
        raise DeviceError(f"This onnxruntime was built without CUDA. {_NO_GPU}")
    with _LIBRARIES:
        return _preload()


@cache
def _preload() -> str:
    """Once a process, under the lock: stdout is everybody's, and two could swap it for good."""
    import onnxruntime

    complaints = io.StringIO()
    with contextlib.redirect_stdout(complaints):  # it prints what it cannot load
        onnxruntime.preload_dlls()
    return complaints.getvalue()


def _check_contract(session: "InferenceSession", manifest: Manifest, place: Path) -> None:
    tensor, names = manifest.tensor, manifest.names
    picture = {tensor.name: (_INPUT_TYPES[tensor.dtype], tensor.shape(manifest.input))}
    _check_tensors("input", session.get_inputs(), picture, (tensor.name,), place)
    outputs: dict[str, tuple[str, tuple[int, ...]]] = {
        names.logits: ("tensor(float)", (len(manifest.class_names),)),
        names.label: ("tensor(int64)", ()),
        names.score: ("tensor(float)", ()),
        names.flagged: ("tensor(bool)", ()),
    }
    if names.rectified is not None:
        channels, height, width = manifest.input.shape
        outputs[names.rectified] = ("tensor(float)", (height, width, channels))
    _check_tensors("output", session.get_outputs(), outputs, manifest.outputs, place)


def _check_tensors(
    kind: str,
    found: list[Any],
    expected: Mapping[str, tuple[str, tuple[int, ...]]],
    stated: tuple[str, ...],
    place: Path,
) -> None:
    """Compare the graph's inputs or outputs with the contract; the batch axis must be free."""
    by_name = {tensor.name: tensor for tensor in found}
    if [tensor.name for tensor in found] != list(stated):
        raise ArtifactError(
            f"{place} has the {kind}s {list(by_name)}; expected {list(stated)}, in this order, by "
            "the manifest beside it. Export the guard anew."
        )
    for name, (dtype, row) in expected.items():
        tensor = by_name[name]
        batch, *rest = tensor.shape or [0]
        if tensor.type != dtype or isinstance(batch, int) or tuple(rest) != row:
            raise ArtifactError(
                f"{place}: {kind} {name!r} is {tensor.type} {tensor.shape}; expected {dtype} "
                f"{['N', *row]}, N free, by the manifest beside it. Export the guard anew."
            )
