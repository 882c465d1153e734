"""Tars with labels.csv: the good ones byte by byte, and the bad ones."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prn_guard.errors import DataError
from training.datasets import load_pictures
from training.datasets.picture_files import decode
from training.datasets.tars import read_labelled_tar

ROOT = Path(__file__).parents[3]
IMAGENET = Path(os.environ.get("PRN_GUARD_DATA", ROOT.parent / "shared" / "data")) / "imagenet"


def _png(level: int, side: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), level, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _pack(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def _pair(table: bytes, **more: bytes) -> dict[str, bytes]:
    return {"labels.csv": table, "a.png": _png(10), "b.png": _png(20), **more}


@pytest.mark.parametrize("folder", ["", "./", "val/", "./deep/er/"])
def test_rows_are_read_in_order_relative_to_the_table(tmp_path: Path, folder: str) -> None:
    table = b"\xef\xbb\xbffile,label,note\r\nb.png,3,x\r\n./a.png, 0 ,y\r\n"
    members = {folder + name: content for name, content in _pair(table).items()}
    files, labels = read_labelled_tar(_pack(tmp_path / "s.tar", members))
    assert labels.tolist() == [3, 0]
    assert [int(decode(file).unique()) for file in files] == [20, 10]
    assert files[0].length == len(_png(20))


def test_nothing_is_extracted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    path = _pack(tmp_path / "s.tar", _pair(b"file,label\na.png,0\n"))
    monkeypatch.chdir(tmp_path / "work")
    pictures = load_pictures(str(path), split="test")
    pictures.batch(torch.tensor([0]))
    assert not list((tmp_path / "work").iterdir())
    assert [child.name for child in tmp_path.iterdir() if child.is_file()] == ["s.tar"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"file,label\nc.png,0\n", r"does not hold 'c\.png'"),
        (b"file,label\n../a.png,0\n", "points outside the tar"),
        (b"file,label\n/etc/passwd,0\n", "points outside the tar"),
        (b"file,label\nsub/../../a.png,0\n", "points outside the tar"),
        (b"file,label\na.png,cat\n", "picture 1 the label 'cat'"),
        (b"file,label\na.png,0\nb.png,-1\n", "picture 2 the label '-1'"),
        (b"file,label\na.png,1000000\n", "0 to 999999"),
        (b"file,label\na.png," + b"9" * 5000 + b"\n", "0 to 999999"),
        ("file,label\na.png,\u00b2\n".encode(), "the label"),
        (b"file,label\na.png\n", "the label None"),
        (b"file,label\na.png,0\na.png,1\n", "twice"),
        (b"file,label\n,0\n", "without a file"),
        (b"name,class\na.png,0\n", r"columns name, class; expected file and label"),
        (b"file,label\n", "lists no pictures"),
        (b"", "columns none"),
        (b"\xff\xfe,label\n", "UTF-8"),
        (b'file,label\n"a.png,0\n', "cannot be read as CSV"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, table: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_labelled_tar(_pack(tmp_path / "s.tar", _pair(table)))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path = _pack(tmp_path / "s.tar", _pair(b"file,label\nlink.png,0\n"))
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match=r"no plain file 'link\.png'"):
        read_labelled_tar(path)


@pytest.mark.parametrize("count", [0, 2])
def test_exactly_one_table_is_needed(tmp_path: Path, count: int) -> None:
    members = {f"{index}/labels.csv": b"file,label\n" for index in range(count)}
    path = _pack(tmp_path / "s.tar", {"a.png": _png(1), **members})
    with pytest.raises(DataError, match=f"holds {count} files named"):
        read_labelled_tar(path)


def test_what_is_no_plain_tar_is_refused(tmp_path: Path) -> None:
    table = _pair(b"file,label\na.png,0\n")
    zipped = _pack(tmp_path / "s.tar.gz", table, "w:gz")
    with pytest.raises(DataError, match=r"unpacked to \.tar first"):
        read_labelled_tar(zipped)
    for content in (b"", b"no tar at all" * 100):
        (tmp_path / "odd").write_bytes(content)
        with pytest.raises(DataError, match=r"odd"):
            read_labelled_tar(tmp_path / "odd")


def test_a_tar_cut_inside_a_picture_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
    path = _pack(tmp_path / "s.tar", {"labels.csv": b"file,label\na.png,0\n", "a.png": noise})
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="cannot be read as an uncompressed tar"):
        read_labelled_tar(path)


@pytest.mark.skipif(not IMAGENET.is_dir(), reason="the ImageNet pictures are not on this machine")
def test_the_real_tars_hold_what_their_readme_says() -> None:
    train = load_pictures(
        str(IMAGENET / "train_1000_256px.tar"), split="train", size=(3, 224, 224), class_count=1000
    )
    test = load_pictures(
        str(IMAGENET / "val_700_256px.tar"), split="test", size=(3, 224, 224), class_count=1000
    )
    assert train.labels.tolist() == list(range(1000))
    assert len(test) == 700
    assert test.labels[:4].tolist() == [65, 970, 230, 809]
    with tarfile.open(IMAGENET / "val_700_256px.tar") as archive:
        stream = archive.extractfile("ILSVRC2012_val_00000003.jpg")
        assert stream is not None
        array = np.asarray(Image.open(stream).convert("RGB"))
    image = test.batch(torch.tensor([2]))[0]
    expected = array[16:240, 16:240].astype(np.float32) / 255
    assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
