"""Read an artifact folder: signature, manifest, every digest, and what the graph's file says.

Nothing here trusts a file that it has not compared yet, and nothing is parsed before the signature
was checked, where one is asked for.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
import numpy.typing as npt

from prn_guard.contract import (
    GRAPH_FILE,
    MANIFEST_FILE,
    MAX_GRAPH_BYTES,
    MAX_MANIFEST_BYTES,
    REPEATING,
    SIGNATURE_FILE,
    FileEntry,
    Manifest,
)
from prn_guard.errors import ArtifactError
from prn_guard.model_file import ModelFacts, Values, read_model_facts
from prn_guard.plain_files import open_plain, read_bounded

_IR_VERSIONS: Final = range(3, 15)
"""From the first with operator sets to that of ONNX 1.23."""
_FLOATS: Final = {1: "<f4", 11: "<f8", 14: "<f4", 15: "<f8"}
"""NumPy's names for `TensorProto.DataType`; complex numbers are pairs."""
_INFINITY_16: Final = {10: 0x7C00, 16: 0x7F80}
"""Bits of infinity in float16 and bfloat16, which NumPy lacks; those above are no number."""
_PIECE = 1 << 20


@final
@dataclass(frozen=True, kw_only=True)
class VerifiedArtifact:
    """An artifact of which every listed file was compared, as the very bytes that were.

    Args:
        manifest: parsed from `text`.
        text: contents of `manifest.json`.
        signature: contents of `manifest.sig`, checked; None where no key was given.
        graph: contents of `guarded.onnx`.
    """

    manifest: Manifest
    text: bytes
    signature: bytes | None
    graph: bytes


def read_artifact(folder: Path, *, public_key: Path | None = None) -> tuple[Manifest, bytes]:
    """As `verify_artifact`, of which the manifest and the graph's bytes are returned."""
    verified = verify_artifact(folder, public_key=public_key)
    return verified.manifest, verified.graph


def verify_artifact(folder: Path, *, public_key: Path | None = None) -> VerifiedArtifact:
    """Read manifest and graph, having verified every file that is listed.

    Args:
        folder: what `python -m export` wrote.
        public_key: a PEM file; the manifest must then be signed by that key.

    Raises:
        ArtifactError: a file is missing, changed, too large, no plain file or outside the folder;
            the signature is missing or wrong; the manifest does not follow its schema; the graph
            is no ONNX model of the manifest's operator set, or uses what is not allowed.
        InvalidArgumentError: the key cannot be used.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is no folder. Name the folder that `export` wrote.")
    path = folder / MANIFEST_FILE
    text = read_bounded(_inside(folder, path), MAX_MANIFEST_BYTES)
    signature = None
    if public_key is not None:
        from prn_guard.signing import verify

        signature = _read_signature(folder)
        verify(text, signature, public_key)
    manifest = Manifest.parse(text, path)
    names = [entry.name for entry in manifest.files]
    if names.count(GRAPH_FILE) != 1 or len(set(names)) != len(names):
        raise ArtifactError(
            f"The manifest in {folder} lists the files {names}; expected {GRAPH_FILE} among them "
            "and none twice. Export the guard anew."
        )
    graph = b""
    for entry in manifest.files:
        content = _read_verified(folder, entry, keep=entry.name == GRAPH_FILE)
        graph = content or graph
    check_model(graph, manifest, folder / GRAPH_FILE)
    return VerifiedArtifact(manifest=manifest, text=text, signature=signature, graph=graph)


def unchecked_signature(folder: Path) -> bytes | None:
    """The signature beside a manifest, whosever it is; None where there is none.

    Raises:
        ArtifactError: `manifest.sig` is no plain file inside the folder, or no 64 bytes.
    """
    from prn_guard.signing import SIGNATURE_BYTES

    path = folder / SIGNATURE_FILE
    if not path.exists() and not path.is_symlink():
        return None
    signature = read_bounded(_inside(folder, path), SIGNATURE_BYTES)
    if len(signature) != SIGNATURE_BYTES:
        raise ArtifactError(
            f"{path} has {len(signature)} bytes; an Ed25519 signature has {SIGNATURE_BYTES}. "
            "Export with a private key again, or remove it."
        )
    return signature


def check_model(graph: bytes, manifest: Manifest, place: Path) -> None:
    """Refuse a model file that is not the plain ONNX graph which the manifest describes.

    Custom domains are refused because some of onnxruntime's own operators open files (`EPContext`)
    or run code of other providers; model-local functions because they may redefine a standard
    operator; external data because nothing has verified it; loops because one picture could then
    take for ever.

    Raises:
        ArtifactError: one of these, another operator set than the manifest's, or a weight that is
            not a number.
    """
    try:
        facts = read_model_facts(graph)
    except ArtifactError as error:
        raise ArtifactError(
            f"{place} is no ONNX model: {error}. Restore it, or export the guard anew."
        ) from error
    problem = _unfit_operators(facts) or _unfit_file(facts, manifest) or _not_a_number(facts, graph)
    if problem:
        raise ArtifactError(f"{place} {problem}. Export the guard anew.")


def _unfit_operators(facts: ModelFacts) -> str | None:
    foreign = sorted(facts.domains - {""})
    if foreign:
        return (
            f"uses operators of {', '.join(foreign)[:200]!r}; expected the standard ones of ONNX "
            "only"
        )
    repeating = sorted(facts.operators & REPEATING)
    if repeating:
        return (
            f"uses {', '.join(repeating)}, which may run for ever; expected a classifier without "
            "loops"
        )
    if facts.functions:
        return f"brings {facts.functions} functions of its own; expected standard operators only"
    return None


def _unfit_file(facts: ModelFacts, manifest: Manifest) -> str | None:
    if facts.ir_version not in _IR_VERSIONS:
        return (
            f"states the IR version {facts.ir_version}; expected {_IR_VERSIONS.start} to "
            f"{_IR_VERSIONS.stop - 1}"
        )
    if facts.opsets != {"": manifest.opset}:
        return (
            f"states the operator set {facts.opsets.get('', 'none')}; expected {manifest.opset}, "
            "by the manifest beside it"
        )
    if facts.external_tensors:
        return (
            f"refers to values in other files in {facts.external_tensors} places; expected one "
            "file that holds all of them"
        )
    return None


def _not_a_number(facts: ModelFacts, graph: bytes) -> str | None:
    # Infinity may be meant (a mask, an open limit); NaN never is.
    for values in facts.values:
        count = _count_nan(values, graph)
        if count:
            return f"holds {count} weights that are no number (NaN)"
    count = int(np.isnan(np.frombuffer(facts.attribute_floats, "<f4")).sum())
    return f"holds {count} attributes that are no number (NaN)" if count else None


def _count_nan(values: Values, graph: bytes) -> int:
    kind, infinity = _FLOATS.get(values.data_type), _INFINITY_16.get(values.data_type)
    length = values.end - values.start
    if infinity is not None:
        if values.varints:
            pieces = _low_bits(graph, values.start, values.end)
        else:
            pieces = iter([np.frombuffer(graph, "<u2", length // 2, values.start)])
        return sum(int(((bits & 0x7FFF) > infinity).sum()) for bits in pieces)
    if kind is None or values.varints:
        return 0
    count = length // np.dtype(kind).itemsize
    return int(np.isnan(np.frombuffer(graph, kind, count, values.start)).sum())


def _low_bits(graph: bytes, start: int, end: int) -> Iterator[npt.NDArray[np.uint16]]:
    """The low 16 bits of varints, piece by piece, so that no file needs much more than its size."""
    while start < end:
        octets = np.frombuffer(graph, np.uint8, min(end - start, _PIECE), start)
        last = np.flatnonzero(octets < 0x80)
        if not last.size:  # none ends here: no reader takes that
            return
        first = np.concatenate(([0], last[:-1] + 1))
        bits = np.zeros(len(first), np.uint16)
        for place in range(3):  # of 7 bits each
            held = np.where(first + place <= last, first + place, 0)
            part = (octets[held] & 0x7F).astype(np.uint16) << np.uint16(7 * place)
            bits |= np.where(first + place <= last, part, np.uint16(0))
        yield bits
        start += int(last[-1]) + 1


def _inside(folder: Path, path: Path) -> Path:
    """Where `path` leads to, which must be inside its folder."""
    try:
        place = path.resolve(strict=True)
        home = folder.resolve()
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path} is missing, so it cannot be read. Is this the folder that `export` wrote?"
        ) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, up to Python 3.12
        raise ArtifactError(
            f"{path} cannot be read: {error}. Restore it, or export the guard anew."
        ) from error
    if not place.is_relative_to(home) or not place.is_file():
        raise ArtifactError(
            f"{path} is no plain file inside its folder (it leads to {place}). Copy the file "
            "itself there, or export the guard anew."
        )
    return place


def _read_signature(folder: Path) -> bytes:
    path = folder / SIGNATURE_FILE
    if not path.exists() and not path.is_symlink():
        raise ArtifactError(
            f"{path} is missing, and a signature was asked for. Export with a private key, or load "
            "without a public one."
        )
    return read_bounded(_inside(folder, path), _PIECE)


def _read_verified(folder: Path, entry: FileEntry, *, keep: bool) -> bytes:
    """Compare a file with its entry; its contents where they are to be kept, else nothing."""
    path = folder / entry.name
    with open_plain(_inside(folder, path)) as stream:
        try:
            size = stream.seek(0, 2)
            stream.seek(0)
            if keep and size > MAX_GRAPH_BYTES:
                raise ArtifactError(
                    f"{path} has {size} bytes; an ONNX model has at most {MAX_GRAPH_BYTES}. Export "
                    "the guard anew."
                )
            digest, content = _digest(stream, entry, size, keep=keep)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error}. Restore it.") from error
    if digest != entry.sha256:
        found = f"{size} bytes" + (f" with sha256 {digest}" if digest else "")
        raise ArtifactError(
            f"{path} has changed since it was exported: the manifest states {entry.size_bytes} "
            f"bytes with sha256 {entry.sha256}, found {found}. Restore the file, or export the "
            "guard anew."
        )
    return content


def _digest(
    stream: io.BufferedReader, entry: FileEntry, size: int, *, keep: bool
) -> tuple[str, bytes]:
    """SHA-256 of a file of the stated size, and its contents if kept; else nothing is read."""
    if size != entry.size_bytes:
        return "", b""
    if keep:
        content = stream.read(size)
        return hashlib.sha256(content).hexdigest(), content
    return hashlib.file_digest(stream, "sha256").hexdigest(), b""
