"""Perturbations made elsewhere: what is taken, and what is refused with which advice."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from prn_guard.errors import DataError
from training.perturbations.loading import load_perturbations

SHAPE = (3, 10, 12)
Array = NDArray[np.float32]


@pytest.fixture
def stack() -> Array:
    values = np.random.default_rng(0).uniform(-0.1, 0.1, (2, *SHAPE))
    return values.astype(np.float32)


def _safetensors(path: Path, array: Array) -> None:
    save_file({"any name": torch.from_numpy(array)}, path)


WRITERS: dict[str, Callable[[Path, Array], None]] = {
    "one.npy": np.save,
    "one.NPY": lambda path, array: path.write_bytes(_npy_bytes(array)),
    "one.npz": lambda path, array: np.savez(path, delta=array),
    "named.npz": lambda path, array: np.savez(path, perturbations=array, other=np.zeros(3)),
    "one.safetensors": _safetensors,
    "one.pt": lambda path, array: torch.save(torch.from_numpy(array), path),
    "one.pth": lambda path, array: torch.save({"uap": torch.from_numpy(array)}, path),
    "parameter.pth": lambda path, array: torch.save(nn.Parameter(torch.from_numpy(array)), path),
}


def _npy_bytes(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("name", list(WRITERS))
@pytest.mark.parametrize("single", [True, False])
def test_every_form_gives_the_same_tensor(
    tmp_path: Path, stack: Array, name: str, *, single: bool
) -> None:
    array = stack[0] if single else stack
    WRITERS[name](tmp_path / name, array)
    found = load_perturbations(tmp_path / name, SHAPE)
    assert (found.dtype, found.requires_grad) == (torch.float32, False)
    assert np.array_equal(found.numpy(), array[None] if single else array)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floating_types_become_float32(tmp_path: Path, stack: Array, dtype: type) -> None:
    np.save(tmp_path / "p.npy", stack.astype(dtype))
    found = load_perturbations(tmp_path / "p.npy", SHAPE)
    assert np.array_equal(found.numpy(), stack.astype(dtype).astype(np.float32))


def test_the_largest_value_allowed_is_one(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.full(SHAPE, -1.0))
    assert float(load_perturbations(tmp_path / "p.npy", SHAPE).min()) == -1


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full(SHAPE, 10.0), "largest value .* is 10; .* Divide 0-255 values by 255"),
        (np.full(SHAPE, -1.01), "is 1.01"),
        (np.zeros(SHAPE), "expected above 0"),
        (np.full(SHAPE, 10, dtype=np.int64), "torch.int64; .* Divide 0-255 values by 255"),
        (np.full(SHAPE, np.nan), "not finite"),
        (np.full(SHAPE, np.inf), "not finite"),
        (np.full((10, 12, 3), 0.1), "channels last: move channels first"),
        (np.full((4, 10, 12, 3), 0.1), "channels last: move channels first"),
        (np.full((3, 12, 10), 0.1), r"shape \(1, 3, 12, 10\); expected .* = \(3, 10, 12\)"),
        (np.full((1, 10, 12), 0.1), "expected"),
        (np.full((10, 12), 0.1), "expected"),
        (np.full((1, 1, *SHAPE), 0.1), "expected"),
        (np.zeros((0, *SHAPE)), "expected"),
        (np.float64(0.1), "expected"),
        (np.full(SHAPE, "a"), "refused"),
        (np.full(SHAPE, 0.1, dtype=">f4"), "byte order"),
        (np.full(SHAPE, 0.1 + 0.1j), "complex"),
    ],
)
def test_another_range_or_shape_is_refused(tmp_path: Path, array: Array, message: str) -> None:
    np.save(tmp_path / "p.npy", array)
    with pytest.raises(DataError, match=message) as refused:
        load_perturbations(tmp_path / "p.npy", SHAPE)
    assert "p.npy" in str(refused.value)


class Exploding:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("name", ["p.npy", "p.npz", "p.pt"])
def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    content = np.array([Exploding()], dtype=object)
    if name == "p.npz":
        np.savez(tmp_path / name, perturbations=content)
    elif name == "p.npy":
        np.save(tmp_path / name, content)
    else:
        torch.save(Exploding(), tmp_path / name)
    with pytest.raises(DataError, match=r"pickle|refused"):
        load_perturbations(tmp_path / name, SHAPE)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".npy", ".npz", ".pt", ".pth", ".txt", ""])
@pytest.mark.parametrize("content", [b"", b"no array at all", b"PK\x03\x04 cut short"])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"p{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read as perturbations|is refused"):
        load_perturbations(path, SHAPE)


def test_several_arrays_need_a_name(tmp_path: Path, stack: Array) -> None:
    np.savez(tmp_path / "p.npz", a=stack, b=stack)
    with pytest.raises(DataError, match="none named 'perturbations'"):
        load_perturbations(tmp_path / "p.npz", SHAPE)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no perturbation file .*p\.npy"):
        load_perturbations(tmp_path / "p.npy", SHAPE)
