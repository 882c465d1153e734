import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from prn_guard.errors import ArtifactError, StorageError
from prn_guard.files import read_json, sha256_of, write_bytes, write_json, write_whole


def test_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "c.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), ValueError("no"), KeyboardInterrupt()]
)
def test_failing_writer_leaves_the_old_file_and_no_part(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write(partial):
        partial.write_bytes(b"half")
        raise error

    with pytest.raises(StorageError if isinstance(error, OSError) else type(error)):
        write_whole(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_a_storage_error(tmp_path):
    path = tmp_path / "a.bin"

    def write(partial):
        with Path("/dev/full").open("wb") as device:
            device.write(b"x" * 100_000)

    with pytest.raises(StorageError, match=r"a\.bin could not be written.*Free some space"):
        write_whole(path, write)
    assert list(tmp_path.iterdir()) == []


def test_disk_that_fills_at_the_last_moment_is_a_storage_error(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError):
        write_bytes(tmp_path / "a.bin", b"content")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_bytes(tmp_path / "file" / "a.bin", b"content")


def test_json_round_trip_and_refusals(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"score": 0.1, "name": "é"})
    assert read_json(path) == {"score": 0.1, "name": "é"}
    with pytest.raises(ValueError, match=r"nan|JSON"):
        write_json(path, {"score": float("nan")})
    assert json.loads(path.read_text()) == {"score": 0.1, "name": "é"}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_broken_json_is_an_artifact_error(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be read as JSON"):
        read_json(path)


def test_missing_json_is_an_artifact_error(tmp_path):
    with pytest.raises(ArtifactError, match="is missing"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_digest_equals_hashlib(tmp_path, size):
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a").write_bytes(content[:size])
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content[:size]).hexdigest()
