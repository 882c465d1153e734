"""Where Fashion-MNIST is looked for, and the real set where Debian's package is installed."""

import socket
import urllib.error
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from prn_guard.errors import DataError
from training.datasets import fashion_mnist, load_pictures

PICTURES = b"\x00\x00\x08\x03\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x02" + bytes(4)
LABELS = b"\x00\x00\x08\x01\x00\x00\x00\x01\x09"


def _write(folder: Path, label: int) -> Path:
    folder.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(PICTURES)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(LABELS[:-1] + bytes([label]))
    return folder


def _forbidden(*_: object, **__: object) -> NoReturn:
    pytest.fail("The download was tried.")


def test_the_given_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", _write(tmp_path / "system", 2))
    monkeypatch.setattr(fashion_mnist, "FashionMNIST", _forbidden)
    given = _write(tmp_path / "given", 1)
    assert fashion_mnist.load_fashion_mnist("test", given)[1].tolist() == [1]
    assert fashion_mnist.load_fashion_mnist("test", tmp_path / "missing")[1].tolist() == [2]
    assert fashion_mnist.load_fashion_mnist("train")[1].tolist() == [2]


def test_the_download_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def download(root: str, *, train: bool, download: bool) -> None:
        assert not train
        assert download
        limits.append(socket.getdefaulttimeout())
        _write(Path(root) / "FashionMNIST" / "raw", 3)

    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr(fashion_mnist, "FashionMNIST", download)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert fashion_mnist.load_fashion_mnist("test")[1].tolist() == [3]
    assert (tmp_path / "cache" / "prn-guard" / "FashionMNIST").is_dir()
    assert limits == [10.0]
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("no route"),
        RuntimeError("Error downloading\nno route"),
        TimeoutError("no route"),
    ],
)
def test_a_set_that_is_nowhere_is_explained_place_by_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def download(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr(fashion_mnist, "FashionMNIST", download)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DataError) as caught:
        load_pictures("fashion-mnist", split="test", data_folder=tmp_path)
    message = str(caught.value)
    assert f"(1) the given folder: {tmp_path} holds no idx files" in message
    assert f"(2) the system's package: {tmp_path / 'nowhere'} does not exist" in message
    assert f"(3) torchvision's download into {tmp_path / 'cache' / 'prn-guard'}" in message
    assert "no route" in message
    assert "dataset-fashion-mnist" in message
    assert "\n" not in message


def test_a_damaged_folder_is_not_passed_over(tmp_path: Path) -> None:
    given = _write(tmp_path / "given", 1)
    (given / "t10k-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte begins with nothing"):
        fashion_mnist.load_fashion_mnist("test", given)


@pytest.mark.skipif(
    not fashion_mnist.SYSTEM_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is missing"
)
def test_the_real_set_has_its_known_statistics() -> None:
    train = load_pictures("fashion-mnist", split="train", size=(1, 28, 28), class_count=10)
    test = load_pictures("fashion-mnist:test", split="train")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    assert test.labels[:5].tolist() == [9, 2, 1, 1, 6]
    assert train.class_names[9] == "Ankle boot"
    # The training set's published mean and deviation are 0.2860 and 0.3530.
    sample = train.batch(torch.arange(0, 60_000, 6)).double()
    assert abs(sample.mean().item() - 0.2860) < 2e-3
    assert abs(sample.std().item() - 0.3530) < 2e-3
