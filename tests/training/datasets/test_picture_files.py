"""Decoding against the arrays that were saved, and pictures that nobody should accept."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prn_guard.errors import DataError
from training.datasets import FilePictures
from training.datasets.picture_files import PictureFile, decode


def _array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _save(array: np.ndarray, path: Path, mode: str | None = None) -> PictureFile:
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path)
    return PictureFile(path.name, path)


def test_color_and_gray_come_back_as_saved(tmp_path: Path) -> None:
    color, gray = _array(9, 12, 3), _array(9, 12)
    assert np.array_equal(decode(_save(color, tmp_path / "c.png")).permute(1, 2, 0).numpy(), color)
    assert np.array_equal(decode(_save(gray, tmp_path / "g.png"))[0].numpy(), gray)


def test_palette_bilevel_and_cmyk_are_converted(tmp_path: Path) -> None:
    flat = np.full((8, 8, 3), (255, 0, 0), dtype=np.uint8)
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(3, 1, 1).expand(3, 8, 8)
    assert torch.equal(decode(_save(flat, tmp_path / "p.png", "P")), red)
    black_white = np.kron(_array(8, 8) > 127, np.ones((1, 1), dtype=bool))
    bilevel = decode(_save((black_white * 255).astype(np.uint8), tmp_path / "b.png", "1"))
    assert np.array_equal(bilevel[0].numpy(), black_white * 255)
    assert decode(_save(flat, tmp_path / "k.tif", "CMYK")).shape == (3, 8, 8)


def test_a_stretch_of_a_file_is_decoded(tmp_path: Path) -> None:
    array = _array(8, 8, 3)
    whole = _save(array, tmp_path / "c.png")
    content = whole.path.read_bytes()
    (tmp_path / "box").write_bytes(b"before" + content + b"after")
    part = PictureFile("box:c.png", tmp_path / "box", 6, len(content))
    assert np.array_equal(decode(part).permute(1, 2, 0).numpy(), array)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(DataError, match=rf"t\.png has transparency \(mode {mode}\).*Flatten"):
        decode(_save(_array(8, 8, 3), tmp_path / "t.png", mode))


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="8-bit"):
        decode(_save(_array(8, 8).astype(np.uint16) * 257, tmp_path / "s.png"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "ppm"])
def test_a_truncated_picture_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    _save(_array(64, 64, 3), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"cut\.{suffix}"):
        decode(PictureFile(path.name, path))


@pytest.mark.parametrize("content", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"odd\.png"):
        decode(PictureFile(path.name, path))


def test_a_picture_that_went_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png cannot be read.*moved"):
        decode(PictureFile("gone.png", tmp_path / "gone.png"))


def test_a_stretch_beyond_the_end_is_refused(tmp_path: Path) -> None:
    whole = _save(_array(8, 8, 3), tmp_path / "c.png")
    with pytest.raises(DataError, match="cut short"):
        decode(PictureFile("c", whole.path, 0, whole.path.stat().st_size + 1))


@pytest.mark.parametrize("side", [9000, 10_000, 20_000])
def test_decompression_bombs_are_refused(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.ppm"
    path.write_bytes(b"P6\n%d %d\n255\n" % (side, side) + bytes(64))
    with pytest.raises(DataError, match=r"bomb\.ppm.*(pixels|bomb)"):
        decode(PictureFile(path.name, path))


def _folder(tmp_path: Path) -> tuple[list[PictureFile], list[np.ndarray]]:
    arrays = [_array(12, 10, 3, seed=seed) for seed in range(6)]
    return [_save(array, tmp_path / f"{i}.png") for i, array in enumerate(arrays)], arrays


def test_a_batch_is_cut_at_the_drawn_places(tmp_path: Path) -> None:
    files, arrays = _folder(tmp_path)
    pictures = FilePictures(files, torch.zeros(6).long(), ("a",), size=(3, 10, 8))
    indices = torch.tensor([4, 1, 1, 3, 0, 2, 5])
    batch = pictures.batch(indices, crops=torch.Generator().manual_seed(3))
    drawn = torch.randint(5, (7,), generator=torch.Generator().manual_seed(3)).tolist()
    corners = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]
    for image, index, place in zip(batch, indices.tolist(), drawn, strict=True):
        top, left = corners[place]
        expected = arrays[index][top : top + 10, left : left + 8].astype(np.float32) / 255
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_threads_read_what_one_thread_reads(tmp_path: Path) -> None:
    files, _ = _folder(tmp_path)
    pictures = FilePictures(files, torch.zeros(6).long(), ("a",), size=(3, 10, 10))
    alone = pictures.batch(torch.arange(6))
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda _: pictures.batch(torch.arange(6)), range(16)))
    assert all(torch.equal(alone, other) for other in together)


def test_without_a_size_the_first_picture_sets_a_square(tmp_path: Path) -> None:
    files, _ = _folder(tmp_path)
    labels = torch.zeros(6).long()
    assert FilePictures(files, labels, ("a",)).shape == (3, 10, 10)
    assert FilePictures(files, labels, ("a",), resize=16).shape == (3, 16, 16)


def test_the_first_misfit_is_refused_at_once_and_others_when_read(tmp_path: Path) -> None:
    files, _ = _folder(tmp_path)
    labels = torch.zeros(6).long()
    with pytest.raises(DataError, match=r"^0\.png is 12x10"):
        FilePictures(files, labels, ("a",), size=(3, 11, 11))
    _save(_array(5, 5, 3), tmp_path / "3.png")
    pictures = FilePictures(files, labels, ("a",), size=(3, 10, 10))
    with pytest.raises(DataError, match=r"^3\.png is 5x5"):
        pictures.batch(torch.arange(6))
