"""Exports of ONNX files, and what must hold of every one of them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from export.parity import MARGINS
from export.pipeline import ExportOptions, export_guard
from prn_guard import Guard
from prn_guard.contract import Manifest
from prn_guard.preparation import to_tensor
from tests.tolerances import LOGIT, SCORE, assert_close
from training.guard.folder import load_guard

Wrap = Callable[..., Path]


@dataclass(frozen=True)
class Exported:
    """A guard folder, the user's file in it, and what was exported from it."""

    source: Path
    model: onnx.ModelProto
    out: Path
    manifest: Manifest


def export_file(
    wrap: Wrap, out: Path, model: onnx.ModelProto, layout: str = "nchw", **options: Any
) -> Exported:
    """Export a file of this layout, with these of the `ExportOptions`."""
    source = wrap(model, layout)
    manifest = export_guard(source, out, ExportOptions(limit=40, **options))
    return Exported(source, model, out, manifest)


def open_graph(content: bytes) -> onnxruntime.InferenceSession:
    """Plain onnxruntime, as a client that knows nothing of the guard runs it."""
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def answers_of(content: bytes, pictures: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """All outputs by name, in the graph's order."""
    session = open_graph(content)
    (image,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {image.name: pictures}), strict=True))


def bits(values: NDArray[Any]) -> NDArray[np.int32]:
    """Of float32 values."""
    return np.ascontiguousarray(values).view(np.int32)


def assert_serves_as_the_modules(exported: Exported, pixels: NDArray[np.uint8]) -> None:
    """Scores and logits within tolerance; decisions exactly, but inside the margin."""
    manifest = exported.manifest
    half = manifest.precision == "fp16"
    guarded, _ = load_guard(exported.source)
    guarded.detector.threshold.fill_(manifest.detection.threshold)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = guarded(images)
    verdict = Guard(exported.out).classify(pixels, batch_size=60)
    margins = MARGINS[manifest.precision]
    score, logits = expected.score.numpy(), expected.logits.numpy()
    clear = np.abs(score - manifest.detection.threshold) > margins.score
    assert clear.sum() > 100
    assert np.array_equal(verdict.flagged[clear], expected.flagged.numpy()[clear])
    assert 3 < verdict.flagged[clear].sum() < clear.sum() - 10
    agreed = verdict.flagged == expected.flagged.numpy()
    top = np.sort(logits, axis=1)
    decided = agreed & (top[:, -1] - top[:, -2] > margins.logit)
    assert np.array_equal(verdict.label[decided], expected.label.numpy()[decided])
    if half:
        assert np.abs(verdict.score - score).max() < margins.score
        assert np.abs(verdict.logits - logits)[agreed].max() < margins.logit
    else:
        assert_close(verdict.score, score, SCORE)
        assert_close(verdict.logits[agreed], logits[agreed], LOGIT)
    softmax = torch.softmax(torch.from_numpy(verdict.logits).double(), dim=1)
    assert_close(verdict.probabilities, softmax, LOGIT)


def assert_drops_in(exported: Exported, pixels: NDArray[np.uint8]) -> None:
    """Old clients' input is taken, and unflagged pictures get the user's file's very bits."""
    guarded_file = (exported.out / "guarded.onnx").read_bytes()
    original = exported.model.SerializeToString()
    (old,), (new,) = open_graph(original).get_inputs(), open_graph(guarded_file).get_inputs()
    assert (new.name, new.type, new.shape[1:]) == (old.name, old.type, old.shape[1:])
    spec = load_guard(exported.source)[1].input
    assert exported.manifest.tensor.name == old.name
    own = to_tensor(pixels, spec, exported.manifest.tensor)
    plain = pixels.astype(np.float32) / np.float32(255)
    by_hand = (plain - np.float32(0.5)) / np.float32(0.25)
    if spec.layout == "nchw":
        by_hand = by_hand.transpose(0, 3, 1, 2)
    assert np.array_equal(own, by_hand)
    expected = answers_of(original, own) if isinstance(old.shape[0], str | None) else None
    given = answers_of(guarded_file, own)
    names = [output.name for output in exported.model.graph.output]
    assert list(given)[: len(names)] == names
    roles = exported.manifest.names
    assert list(given)[-3:] == [roles.label, roles.score, roles.flagged]
    assert tuple(given) == exported.manifest.outputs
    unflagged = ~given[roles.flagged]
    assert 10 < unflagged.sum() < len(pixels) - 10
    if expected is None:  # made for one picture at a time
        rows = [answers_of(original, own[at : at + 1]) for at in range(len(own))]
        expected = {name: np.concatenate([row[name] for row in rows]) for name in names}
        assert np.allclose(given[names[0]][unflagged], expected[names[0]][unflagged], rtol=1e-5)
        return
    for name in names:
        equal = (bits(given[name]) == bits(expected[name])).all(axis=1)
        assert equal[unflagged].all()
        assert not equal[~unflagged].all()


def digest_of(content: bytes) -> str:
    """SHA-256 over nodes and initialisers of a file without notes, in a few lines of one's own."""
    graph = onnx.load_from_string(content).graph
    parts = [part.SerializeToString() for part in (*graph.node, *graph.initializer)]
    return hashlib.sha256(b"".join(parts)).hexdigest()
