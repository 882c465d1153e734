"""The artifact folder: the graph and its manifest, put in place together or not at all."""

import shutil
import tempfile
from pathlib import Path
from typing import Final

import onnx
import onnxruntime

from export.guarded_graph import OPSET, bare_graph, guarded_graph
from export.parity import measure_parity
from prn_guard import console
from prn_guard.contract import (
    GRAPH_FILE,
    MANIFEST_FILE,
    OUTPUTS,
    Ball,
    Detection,
    FileEntry,
    Manifest,
    Parity,
)
from prn_guard.errors import InvalidArgumentError, StorageError
from prn_guard.files import sha256_of, write_bytes
from prn_guard.version import __version__
from training.datasets import load_pictures
from training.guard.folder import GuardRecord, load_bank, load_guard

OURS: Final = frozenset({GRAPH_FILE, MANIFEST_FILE})


def export_guard(
    folder: Path,
    out: Path,
    *,
    images: str | None = None,
    limit: int | None = None,
    data_folder: Path | None = None,
) -> Manifest:
    """Export the guard of `folder` to the artifact folder `out`.

    Args:
        folder: what `fit` wrote.
        out: the artifact folder; an earlier export there is replaced.
        images: pictures for the parity check; None takes the fit's test pictures.
        limit: at most so many of them.
        data_folder: where to look for Fashion-MNIST first; None takes the fit's.

    Raises:
        InvalidArgumentError: `out` holds other files.
        ArtifactError: the guard folder is damaged, or the graph does not decide as it does.
        TargetError: the target cannot be rebuilt or exported.
        StorageError: the artifact could not be written.
    """
    _refuse_foreign(out)
    guarded, record = load_guard(folder)
    if data_folder is None and record.data_folder is not None:
        data_folder = Path(record.data_folder)
    pictures = load_pictures(
        images or record.test_pictures,
        split="test",
        size=record.input.shape,
        resize=record.resize,
        limit=limit,
        class_count=len(record.class_names),
        data_folder=data_folder,
    )
    console.say("Exporting the graph")
    graph = guarded_graph(guarded, record.input)
    bare = bare_graph(guarded.target, record.input)
    console.say(f"Comparing it with the torch modules on {len(pictures)} pictures")
    parity = measure_parity(graph, bare, guarded, pictures, load_bank(folder).unseen)
    return _write_artifact(out, graph, record, parity)


def _write_artifact(out: Path, graph: bytes, record: GuardRecord, parity: Parity) -> Manifest:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise StorageError(
            f"No folder can be made beside {out}: {error}. Choose another --out."
        ) from error
    try:
        staging.chmod(0o755)
        write_bytes(staging / GRAPH_FILE, graph)
        manifest = _manifest(staging, record, parity)
        manifest.write(staging)
        _swap(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def _manifest(staging: Path, record: GuardRecord, parity: Parity) -> Manifest:
    path = staging / GRAPH_FILE
    return Manifest(
        created_by=f"prn-guard {__version__}",
        versions={
            **record.versions,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        opset=OPSET,
        input=record.input,
        resize=record.resize,
        class_names=record.class_names,
        outputs=OUTPUTS,
        trained_against=Ball(norm=record.norm, epsilon=record.epsilon),
        detection=Detection(
            threshold=record.threshold,
            target_false_positive_rate=record.false_positive_rate,
            calibration_pictures=record.calibration_pictures,
        ),
        parity=parity,
        files=(FileEntry(name=GRAPH_FILE, sha256=sha256_of(path), size_bytes=path.stat().st_size),),
    )


def _refuse_foreign(out: Path) -> None:
    if out.exists() and (not out.is_dir() or {entry.name for entry in out.iterdir()} - OURS):
        raise InvalidArgumentError(
            f"{out} exists and holds other files than an earlier export. Choose another --out."
        )


def _swap(staging: Path, out: Path) -> None:
    """Put `staging` in the place of `out`; the old folder comes back if that fails."""
    old = Path(f"{staging}.old")
    try:
        if out.exists():
            out.rename(old)
        try:
            staging.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    except OSError as error:
        raise StorageError(f"{out} could not be put in place: {error}.") from error
    shutil.rmtree(old, ignore_errors=True)
