"""Only what was verified, and what the key signed, reaches the repository."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from export.triton import write_repository
from export.triton_config import Settings
from export.triton_interface import read_interface
from prn_guard.errors import ArtifactError
from prn_guard.signing import sign_manifest
from tests.export.small_artifact import (
    write_small_artifact,
)
from tests.prn_guard.tiny import write_keys


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_small_artifact(tmp_path / "artifact")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_artifact_that_the_key_did_not_sign_is_not_written(artifact, out, tmp_path):
    private, public = write_keys(tmp_path, Ed25519PrivateKey.generate())
    with pytest.raises(ArtifactError, match=r"manifest\.sig"):
        write_repository(artifact, out, Settings(), public_key=public)
    assert not out.exists()
    sign_manifest(artifact, private)
    assert write_repository(artifact, out, Settings(), public_key=public).versions == (1,)


@pytest.mark.parametrize("length", [0, 63, 65, 1 << 21])
def test_a_signature_of_another_length_is_not_copied(artifact, out, length):
    (artifact / "manifest.sig").write_bytes(b"s" * length)
    with pytest.raises(ArtifactError, match=r"manifest\.sig"):
        write_repository(artifact, out, Settings())
    assert not out.exists()


@pytest.mark.parametrize("kind", ["file outside", "nothing", "pipe", "folder"])
def test_a_signature_that_is_no_file_of_the_artifact_is_not_copied(artifact, out, tmp_path, kind):
    signature = artifact / "manifest.sig"
    if kind == "pipe":
        os.mkfifo(signature)
    elif kind == "folder":
        signature.mkdir()
    else:
        if kind == "file outside":
            (tmp_path / "secret").write_bytes(b"s" * 64)
        signature.symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactError, match=r"manifest\.sig"):
        write_repository(artifact, out, Settings())
    assert not out.exists()


def test_the_manifest_is_the_one_that_was_verified(artifact, out, monkeypatch):
    before = (artifact / "manifest.json").read_bytes()

    def interface(*arguments):
        (artifact / "manifest.json").write_bytes(b"another, as soon as it was read")
        return read_interface(*arguments)

    monkeypatch.setattr("export.triton.read_interface", interface)
    write_repository(artifact, out, Settings())
    assert (out / "guarded" / "1" / "manifest.json").read_bytes() == before
