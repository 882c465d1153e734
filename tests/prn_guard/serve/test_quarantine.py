"""The quarantine folder: what is kept is whole, bounded, private, and survives a crash."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prn_guard.errors import InvalidArgumentError, StorageError
from prn_guard.serve.quarantine import Quarantine

ROOT = Path(__file__).resolve().parents[3]
MANY = 1 << 20
KEEPS_FOREVER = """
import sys
from pathlib import Path
import numpy as np
from prn_guard.serve.quarantine import Quarantine
quarantine = Quarantine(Path(sys.argv[1]), most_bytes=20_000)
for number in range(1 << 30):
    quarantine.keep(np.full((8, 8, 3), number % 256, np.uint8), {"number": number})
    print(number, flush=True)
"""


@pytest.fixture
def opened(tmp_path):
    """Open the quarantine of `tmp_path / "q"`; all are closed after the test."""
    with contextlib.ExitStack() as stack:

        def open_one(most_bytes=MANY):
            quarantine = Quarantine(tmp_path / "q", most_bytes=most_bytes)
            stack.callback(quarantine.close)
            return quarantine

        yield open_one


def picture(seed, size=8, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (size, size, channels), np.uint8)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def taken(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_and_facts_come_back(opened, channels):
    image = picture(0, channels=channels)
    facts = {"score": 1.5, "request_id": "../../etc/passwd", "time": "2026-11-30T12:00:00Z"}
    kept = opened().keep(image, facts)
    assert kept is not None
    assert kept.name == "flagged-000000000000.png"
    assert np.array_equal(read(kept).reshape(image.shape), image)
    assert json.loads(kept.with_suffix(".json").read_text()) == facts
    assert names(kept.parent) == ["flagged-000000000000.json", "flagged-000000000000.png"]


def test_nobody_else_may_look(opened, tmp_path):
    old = os.umask(0)
    try:
        kept = opened().keep(picture(0), {})
    finally:
        os.umask(old)
    assert (tmp_path / "q").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in kept.parent.iterdir()} == {0o600}


def test_the_oldest_make_room(opened, tmp_path):
    quarantine = opened(most_bytes=2000)
    for number in range(30):
        assert quarantine.keep(picture(number), {"number": number}) is not None
        assert taken(tmp_path / "q") == quarantine.used_bytes <= 2000
    left = [int(name[8:20]) for name in names(tmp_path / "q") if name.endswith(".png")]
    assert left == list(range(left[0], 30))
    assert 2 < len(left) < 30
    one = quarantine.used_bytes / len(left)
    assert quarantine.used_bytes > 2000 - 1.1 * one  # none was removed too early


def test_a_picture_larger_than_the_bound_removes_nothing(opened, tmp_path):
    quarantine = opened(most_bytes=1000)
    quarantine.keep(picture(0), {})
    before = names(tmp_path / "q")
    assert quarantine.keep(picture(1, size=64), {}) is None
    assert quarantine.keep(picture(1), {"long": "x" * 1000}) is None
    assert quarantine.failures == 2
    assert names(tmp_path / "q") == before


def test_a_later_server_goes_on_where_the_first_stopped(opened, tmp_path):
    first = opened()
    for number in range(5):
        first.keep(picture(number), {})
    used = first.used_bytes
    first.close()
    second = opened()
    assert second.used_bytes == used
    assert second.keep(picture(9), {}).name == "flagged-000000000005.png"
    second.close()
    third = opened(most_bytes=used // 2)  # the bound holds from the start
    assert taken(tmp_path / "q") == third.used_bytes <= used // 2


def test_leftovers_of_a_crash_go_and_other_files_stay(opened, tmp_path):
    first = opened()
    first.keep(picture(0), {})
    first.close()
    folder = tmp_path / "q"
    for name in (
        "flagged-000000000003.png",  # without facts
        ".flagged-000000000004.json",  # half-written
        "notes.txt",
        "flagged-1.png",
    ):
        (folder / name).write_bytes(b"x")
    (folder / "flagged-000000000005.png").write_bytes(b"")  # power was lost
    (folder / "flagged-000000000005.json").write_bytes(b"{}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"precious")
    (folder / "flagged-000000000006.png").symlink_to(elsewhere)
    second = opened(most_bytes=5000)
    whole = ["flagged-000000000000.json", "flagged-000000000000.png"]
    assert names(folder) == [*whole, "flagged-1.png", "notes.txt"]
    assert elsewhere.read_bytes() == b"precious"
    assert second.keep(picture(1), {}).name == "flagged-000000000007.png"


def test_a_killed_server_leaves_whole_pairs(tmp_path, opened):
    folder = tmp_path / "q"
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", KEEPS_FOREVER, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if int(line) == 200:
                break
        process.kill()
    assert taken(folder) <= 20_000
    opened(most_bytes=20_000).close()
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) > 20
    assert len(names(folder)) == 2 * len(pictures)
    for path in pictures:
        number = json.loads(path.with_suffix(".json").read_text())["number"]
        assert (read(path) == number % 256).all()


def test_a_full_disk_is_survived(opened, tmp_path):
    quarantine = opened()
    quarantine.keep(picture(0), {})
    before = names(tmp_path / "q")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))  # the kernel refuses larger files
    try:
        assert quarantine.keep(picture(1, size=32), {}) is None
        assert quarantine.keep(picture(1), {"long": "x" * 1000}) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert quarantine.failures == 2
    assert names(tmp_path / "q") == before
    assert quarantine.keep(picture(1), {}) is not None


def test_pictures_that_a_person_took_away_are_no_failure(opened, tmp_path):
    quarantine = opened(most_bytes=2000)
    quarantine.keep(picture(0), {})
    for path in (tmp_path / "q").glob("flagged-*"):
        path.unlink()
    for number in range(20):
        assert quarantine.keep(picture(number), {}) is not None
    assert quarantine.failures == 0


def test_a_folder_that_vanished_is_survived(opened, tmp_path):
    quarantine = opened()
    (tmp_path / "q" / ".lock").unlink()
    (tmp_path / "q").rmdir()
    assert quarantine.keep(picture(0), {}) is None
    assert quarantine.failures == 1


def test_after_close_nothing_is_kept(opened):
    quarantine = opened()
    quarantine.close()
    quarantine.close()
    assert quarantine.keep(picture(0), {}) is None


def test_threads_share_it(opened, tmp_path):
    quarantine = opened()

    def keep_ten():
        for number in range(10):
            quarantine.keep(picture(number), {})

    threads = [threading.Thread(target=keep_ten) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(tmp_path / "q")) == 160
    assert taken(tmp_path / "q") == quarantine.used_bytes


def test_a_folder_in_use_is_refused(opened):
    opened()
    with pytest.raises(StorageError, match="in use by another server"):
        opened()


def test_a_folder_open_to_others_is_refused(opened, tmp_path):
    (tmp_path / "q").mkdir(mode=0o755)
    with pytest.raises(InvalidArgumentError, match="open to other users"):
        opened()
    assert (tmp_path / "q").stat().st_mode & 0o777 == 0o755


def test_what_is_no_folder_is_refused(opened, tmp_path):
    (tmp_path / "q").write_text("a file")
    with pytest.raises(StorageError, match="cannot be opened"):
        opened()


@pytest.mark.parametrize(
    ("image", "facts", "match"),
    [
        (np.zeros((8, 8), np.uint8), {}, "expected uint8"),
        (np.zeros((8, 8, 4), np.uint8), {}, "expected uint8"),
        (np.zeros((8, 8, 3), np.float32), {}, "expected uint8"),
        (np.zeros((0, 8, 3), np.uint8), {}, "expected uint8"),
        (np.zeros((8, 8, 3), np.uint8), {"score": float("nan")}, "no JSON"),
        (np.zeros((8, 8, 3), np.uint8), {"image": object()}, "no JSON"),
    ],
)
def test_what_is_no_picture_or_no_json_is_refused(opened, image, facts, match):
    with pytest.raises(InvalidArgumentError, match=match):
        opened().keep(image, facts)


def test_the_bound_must_be_a_size(opened):
    with pytest.raises(InvalidArgumentError, match="expected at least 1"):
        opened(most_bytes=0)
