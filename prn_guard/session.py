"""Open an artifact folder: verify every file, load the graph, check that it keeps the contract."""

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from prn_guard.contract import (
    GRAPH_FILE,
    FileEntry,
    Manifest,
)
from prn_guard.errors import ArtifactError, DeviceError, InvalidArgumentError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Device = Literal["cpu", "cuda"]

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_LOG_FATAL_ONLY = 4
_INPUT_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
_EXTERNAL_DATA_FOLDER = "session.model_external_initializers_file_folder_path"


def open_session(folder: Path, device: Device = "cpu") -> "tuple[Manifest, InferenceSession]":
    """Verify an artifact folder and load its graph onto `device`.

    Every file of the manifest is compared with its size and SHA-256, and the graph is loaded from
    the very bytes that were hashed, so a file that changes in between cannot slip in.

    Args:
        folder: what `python -m export` wrote.
        device: "cpu", or "cuda" for the first visible NVIDIA GPU.

    Returns:
        The manifest, and a session whose first provider is the one asked for. The session never
        changes to another provider later.

    Raises:
        InvalidArgumentError: `device` is neither "cpu" nor "cuda".
        ArtifactError: a file is missing, changed or outside the folder; the manifest does not
            follow its schema; the graph does not load or breaks the contract.
        DeviceError: "cuda" was asked for and cannot be had. The CPU never steps in silently.
    """
    if device not in get_args(Device):
        raise InvalidArgumentError(f"device is {device!r}; expected 'cpu' or 'cuda'.")
    manifest, graph = read_artifact(folder)
    place = folder / GRAPH_FILE
    session = load_graph(graph, device, place)
    _check_contract(session, manifest, place)
    return manifest, session


def read_artifact(folder: Path) -> tuple[Manifest, bytes]:
    """Read the manifest and the graph's bytes, having verified every file that is listed.

    Raises:
        ArtifactError: as for `open_session`.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is no folder. Name the folder that `export` wrote.")
    manifest = Manifest.read(folder)
    names = [entry.name for entry in manifest.files]
    if names.count(GRAPH_FILE) != 1 or len(set(names)) != len(names):
        raise ArtifactError(
            f"The manifest in {folder} lists the files {names}; expected {GRAPH_FILE} among them "
            "and none twice. Export the guard anew."
        )
    graph = b""
    for entry in manifest.files:
        content = _read_verified(folder, entry)
        if entry.name == GRAPH_FILE:
            graph = content
    return manifest, graph


def runtime_errors() -> tuple[type[Exception], ...]:
    """The exceptions that onnxruntime raises; they share no base below `Exception`."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    own = (
        value
        for value in vars(native).values()
        if isinstance(value, type) and issubclass(value, Exception)
    )
    return (*own, RuntimeError, ValueError)


def _read_verified(folder: Path, entry: FileEntry) -> bytes:
    path = folder / entry.name
    try:
        place = path.resolve(strict=True)
        if not place.is_relative_to(folder.resolve()) or not place.is_file():
            raise ArtifactError(
                f"{path} is no plain file inside its folder (it leads to {place}). Copy the file "
                "itself there, or export the guard anew."
            )
        size = place.stat().st_size
        content = place.read_bytes() if size == entry.size_bytes else b""
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, up to Python 3.12
        raise ArtifactError(
            f"{path} is listed in the manifest but cannot be read: {error}. Restore it, or export "
            "the guard anew."
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if len(content) != entry.size_bytes or digest != entry.sha256:
        found = f"sha256 {digest}" if content else f"{size} bytes"
        raise ArtifactError(
            f"{path} has changed since it was exported: the manifest states {entry.size_bytes} "
            f"bytes with sha256 {entry.sha256}, found {found}. Restore the file, or export the "
            "guard anew."
        )
    return content


def load_graph(graph: bytes, device: Device, place: Path) -> "InferenceSession":
    """Load a graph onto `device`; the CPU never steps in for a GPU.

    Args:
        graph: the serialised model.
        device: "cpu" or "cuda".
        place: what messages call it.

    Raises:
        ArtifactError: the graph does not load.
        DeviceError: "cuda" was asked for and cannot be had.
    """
    return _load_on_cuda(graph, place) if device == "cuda" else _load(graph, [_CPU], place)


def _load(graph: bytes, providers: list[Any], place: Path) -> "InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY  # failures arrive as exceptions, with their text
    # A graph loaded from bytes would take external weights, unverified, from the working directory.
    options.add_session_config_entry(_EXTERNAL_DATA_FOLDER, os.devnull)
    try:
        # Without enable_fallback=0 onnxruntime answers a failing GPU by moving to the CPU, both
        # here and later in the middle of run().
        return onnxruntime.InferenceSession(
            graph, sess_options=options, providers=providers, enable_fallback=0
        )
    except runtime_errors() as error:
        raise ArtifactError(
            f"{place} does not load, although it is the file that was exported: {error}. Update "
            "onnxruntime to the version in the manifest, or export the guard anew."
        ) from error


def _load_on_cuda(graph: bytes, place: Path) -> "InferenceSession":
    import onnxruntime

    advice = "Install prn-guard[serving] and an NVIDIA driver, or pass device cpu."
    # Presence here proves nothing, absence does: the installed build has no CUDA at all.
    if _CUDA not in onnxruntime.get_available_providers():
        raise DeviceError(f"This onnxruntime was built without CUDA. {advice}")
    complaints = io.StringIO()
    with contextlib.redirect_stdout(complaints):  # it prints what it cannot load
        onnxruntime.preload_dlls()
    # TF32 in the detector's DCT shifts the log features by 0.84 on average, float32 by 4e-4.
    options = {"use_tf32": "0"}
    try:
        session = _load(graph, [(_CUDA, options), _CPU], place)
    except ArtifactError as error:
        _load(graph, [_CPU], place)  # raises in its turn if it is the graph that is at fault
        raise DeviceError(f"On the GPU, though not on the CPU: {error} {advice}") from error
    if session.get_providers()[0] != _CUDA:
        detail = " ".join(["CUDA did not start.", *complaints.getvalue().split()])
        raise DeviceError(f"{detail} {advice} The log of onnxruntime says why.")
    return session


def _check_contract(session: "InferenceSession", manifest: Manifest, place: Path) -> None:
    tensor, names = manifest.tensor, manifest.names
    picture = {tensor.name: (_INPUT_TYPES[tensor.dtype], tensor.shape(manifest.input))}
    _check_tensors("input", session.get_inputs(), picture, (tensor.name,), place)
    outputs = {
        names.logits: ("tensor(float)", (len(manifest.class_names),)),
        names.label: ("tensor(int64)", ()),
        names.score: ("tensor(float)", ()),
        names.flagged: ("tensor(bool)", ()),
    }
    _check_tensors("output", session.get_outputs(), outputs, manifest.outputs, place)


def _check_tensors(
    kind: str,
    found: list[Any],
    expected: dict[str, tuple[str, tuple[int, ...]]],
    stated: tuple[str, ...],
    place: Path,
) -> None:
    """Compare the graph's inputs or outputs with the contract; the batch axis must be free."""
    by_name = {tensor.name: tensor for tensor in found}
    if sorted(by_name) != sorted(stated) or not expected.keys() <= by_name.keys():
        raise ArtifactError(
            f"{place} has the {kind}s {sorted(by_name)}; expected {sorted(expected)}, and exactly "
            f"those the manifest states, {sorted(stated)}. Export the guard anew."
        )
    for name, (dtype, row) in expected.items():
        tensor = by_name[name]
        batch, *rest = tensor.shape or [0]
        if tensor.type != dtype or isinstance(batch, int) or tuple(rest) != row:
            raise ArtifactError(
                f"{place}: {kind} {name!r} is {tensor.type} {tensor.shape}; expected {dtype} "
                f"{['N', *row]}, N free, by the manifest beside it. Export the guard anew."
            )
