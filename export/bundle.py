"""The artifact folder: graph and manifest, put in place together or not at all."""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from prn_guard.contract import (
    BARE_FILE,
    GRAPH_FILE,
    MANIFEST_FILE,
    SIGNATURE_FILE,
    FileEntry,
    Manifest,
)
from prn_guard.errors import InvalidArgumentError, StorageError
from prn_guard.files import write_bytes
from prn_guard.session import open_session
from prn_guard.signing import sign_manifest

OURS: Final = frozenset({GRAPH_FILE, BARE_FILE, MANIFEST_FILE, SIGNATURE_FILE})


def write_artifact(
    out: Path, manifest: Manifest, files: Mapping[str, bytes], *, private_key: Path | None
) -> None:
    """Write an artifact folder; an earlier export there is replaced.

    Args:
        out: the folder, or a link to it; what it leads to is written, and the link stays.
        manifest: lists every one of `files`.
        files: contents by name.
        private_key: signs the manifest; None leaves it unsigned.

    Raises:
        InvalidArgumentError: `out` holds other files; the key is no Ed25519 key.
        ArtifactError: the runtime refuses what was to be put in place.
        StorageError: the artifact could not be written.
    """
    refuse_foreign(out)
    out = out.resolve()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise StorageError(
            f"No folder can be made beside {out}: {error}. Choose another --out."
        ) from error
    try:
        staging.chmod(0o755)
        for name, content in files.items():
            write_bytes(staging / name, content)
        manifest.write(staging)
        if private_key is not None:
            sign_manifest(staging, private_key)
        # Read back as any server will: what the runtime refuses must not replace what it serves.
        open_session(staging)
        _swap(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds anything but an earlier export, and a link to nothing.

    Raises:
        InvalidArgumentError: it is such.
    """
    if out.is_symlink() and not out.exists():
        raise InvalidArgumentError(
            f"{out} is a link that leads nowhere ({out.readlink()}). Make the folder that it "
            "should lead to, or choose another --out."
        )
    if out.exists() and (not out.is_dir() or {entry.name for entry in out.iterdir()} - OURS):
        raise InvalidArgumentError(
            f"{out} exists and holds other files than an earlier export. Choose another --out."
        )


def entry_of(name: str, content: bytes) -> FileEntry:
    """What the manifest states of a file."""
    return FileEntry(name=name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def _swap(staging: Path, out: Path) -> None:
    """Put `staging` in the place of `out`; the old folder comes back if that fails.

    Folders cannot be exchanged in one step everywhere: between the two renames nothing stands at
    `out` for a moment, and whoever opens it just then must try again.
    """
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
