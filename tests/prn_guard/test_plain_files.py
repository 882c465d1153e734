"""Reading without waiting and without reading too much."""

import os
import signal

import pytest

from prn_guard.errors import ArtifactError
from prn_guard.plain_files import open_plain, read_bounded


@pytest.fixture
def _at_most_two_seconds():
    def too_long(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(2)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_at_most_two_seconds")
def test_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="no plain file"):
        open_plain(tmp_path / "pipe")


@pytest.mark.parametrize("path", [".", "/dev/zero"])
def test_folders_and_devices_are_refused(tmp_path, path):
    with pytest.raises(ArtifactError, match=r"no plain file|cannot be read"):
        open_plain(tmp_path / path)


def test_missing_file_and_impossible_name(tmp_path):
    with pytest.raises(ArtifactError, match="is missing"):
        open_plain(tmp_path / "none")
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_plain(tmp_path / "a\0b")


@pytest.mark.parametrize("size", [0, 9, 10])
def test_up_to_the_limit(tmp_path, size):
    (tmp_path / "file").write_bytes(b"a" * size)
    assert read_bounded(tmp_path / "file", 10) == b"a" * size


def test_beyond_the_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"a" * 11)
    with pytest.raises(ArtifactError, match="larger than 10 bytes"):
        read_bounded(tmp_path / "file", 10)
