"""Perturbations made elsewhere: what is taken, and what is refused with which advice."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.io import savemat

from prn_guard.errors import DataError, InvalidArgumentError
from tests.training.perturbations.matlab import save_as_matlab_7_3
from tests.training.perturbations.written import SHAPE, WRITERS, Array, write_hdf5
from training.attacks.norms import Norm
from training.perturbations import perturbation_files
from training.perturbations.loading import check_inside, load_perturbations

DATA = Path(os.environ.get("PRN_GUARD_DATA", Path(__file__).parents[4] / "shared" / "data"))
PUBLISHED = sorted((DATA / "perturbations").glob("*.pth"))


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
        (np.full(SHAPE, 10.0), "is 10, as on the 0-255 scale; .* --perturbation-scale 255"),
        (np.full(SHAPE, -1.01), "is 1.01"),
        (np.stack([np.full(SHAPE, 0.1), np.full(SHAPE, 9.0)]), "is 9, as on the 0-255 scale"),
        (np.zeros(SHAPE), "perturbation 1 of 1 is 0 everywhere"),
        (np.stack([np.full(SHAPE, 0.1), np.zeros(SHAPE)]), "perturbation 2 of 2 is 0 everywhere"),
        (np.full(SHAPE, 10, dtype=np.int64), "torch.int64; .* --perturbation-scale 255"),
        (np.full(SHAPE, np.nan), "not finite"),
        (np.full(SHAPE, np.inf), "not finite"),
        (np.full((10, 12, 3), 0.1), r"channels last \(HWC\): state --perturbation-layout hwc"),
        (np.full((4, 10, 12, 3), 0.1), r"channels last \(HWC\)"),
        (np.full((10, 12, 3, 4), 0.1), "stack runs along the last axis"),
        (np.full((*SHAPE, 4), 0.1), "stack runs along the last axis"),
        (np.full((3, 12, 10), 0.1), r"shape \(1, 3, 12, 10\); expected .* = \(3, 10, 12\)"),
        (np.full((1, 10, 12), 0.1), "expected"),
        (np.full((10, 12), 0.1), "expected"),
        (np.full((1, 1, *SHAPE), 0.1), "expected"),
        (np.zeros((0, *SHAPE)), "expected"),
        (np.float64(0.1), "expected"),
        (np.full(SHAPE, "a"), "refused"),
        (np.full(SHAPE, 0.1 + 0.1j), "complex"),
        (np.full(SHAPE, True), "bool"),
        (np.full(SHAPE, 0.1, dtype=np.longdouble), "at most 64 bits"),
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


@pytest.mark.parametrize("suffix", [*perturbation_files.READERS, ".txt", ""])
@pytest.mark.parametrize(
    "content",
    [b"", b"no array at all", b"PK\x03\x04 cut short", b"\x89HDF\r\n\x1a\n cut short", b"\0" * 200],
)
def test_damaged_files_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"p{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read as perturbations|is refused"):
        load_perturbations(path, SHAPE)


SEVERAL: dict[str, Callable[[Path, dict[str, Array]], None]] = {
    "p.npz": lambda path, arrays: np.savez(path, **arrays),
    "p.mat": savemat,
    "7.3.mat": save_as_matlab_7_3,
    "p.h5": lambda path, arrays: [write_hdf5(path, arrays[name], name) for name in arrays],
    "p.pt": lambda path, arrays: torch.save(
        {name: torch.from_numpy(one) for name, one in arrays.items()}, path
    ),
    "p.safetensors": lambda path, arrays: save_file(
        {name: torch.from_numpy(one) for name, one in arrays.items()}, path
    ),
}


@pytest.mark.parametrize("name", [name for name in SEVERAL if name != "p.h5"])
def test_of_several_arrays_the_one_named_is_read(tmp_path: Path, stack: Array, name: str) -> None:
    path = tmp_path / name
    SEVERAL[name](path, {"a": stack, "b": stack[:1]})
    assert np.array_equal(load_perturbations(path, SHAPE, key="b").numpy(), stack[:1])
    with pytest.raises(DataError, match=r"none named 'perturbations'; its arrays are: a, b\."):
        load_perturbations(path, SHAPE)
    with pytest.raises(DataError, match=r"no array 'c'; .*: a, b\. .* --perturbation-key"):
        load_perturbations(path, SHAPE, key="c")


def test_an_array_of_an_hdf5_file_is_named_by_its_path(tmp_path: Path, stack: Array) -> None:
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["group/a"], file["b"] = stack, stack[:1]
    for key in ("group/a", "/group/a"):
        found = load_perturbations(tmp_path / "p.h5", SHAPE, key=key)
        assert np.array_equal(found.numpy(), stack)
    with pytest.raises(DataError, match=r"its arrays are: b, group/a\."):
        load_perturbations(tmp_path / "p.h5", SHAPE)


@pytest.mark.parametrize("name", ["one.npy", "one.pt"])
def test_an_array_without_a_name_has_no_key(tmp_path: Path, stack: Array, name: str) -> None:
    WRITERS[name](tmp_path / name, stack)
    with pytest.raises(DataError, match=r"without a name, not 'r'\. Leave"):
        load_perturbations(tmp_path / name, SHAPE, key="r")


def test_values_of_other_files_are_not_followed(tmp_path: Path, stack: Array) -> None:
    write_hdf5(tmp_path / "other.h5", stack, "r")
    layout = h5py.VirtualLayout(stack.shape, dtype=stack.dtype)
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "r", shape=stack.shape)
    (tmp_path / "raw").write_bytes(stack.tobytes())
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file.create_virtual_dataset("virtual", layout)
        file["link"] = h5py.ExternalLink(tmp_path / "other.h5", "r")
        file.create_dataset(
            "raw", stack.shape, stack.dtype, external=[(tmp_path / "raw", 0, stack.nbytes)]
        )
    for key in (None, "virtual", "link", "raw"):
        with pytest.raises(DataError, match="its arrays are: none"):
            load_perturbations(tmp_path / "p.h5", SHAPE, key=key)


@pytest.mark.parametrize("name", ["one.npy", "compressed.npz", "compressed.mat", "one.h5"])
def test_a_file_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    WRITERS[name](tmp_path / name, np.full((50, *SHAPE), 0.1, np.float32))
    monkeypatch.setattr(perturbation_files, "LARGEST_BYTES", 70_000)
    with pytest.raises(DataError, match="is refused: it is, or unpacks to"):
        load_perturbations(tmp_path / name, SHAPE)


def test_a_tensor_expanded_from_one_value_is_refused(tmp_path: Path) -> None:
    torch.save(torch.full((1,), 0.1).expand(10**9, *SHAPE), tmp_path / "p.pt")
    with pytest.raises(DataError, match="unpacks to"):
        load_perturbations(tmp_path / "p.pt", SHAPE)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no perturbation file .*p\.npy"):
        load_perturbations(tmp_path / "p.npy", SHAPE)


@pytest.mark.parametrize(("norm", "reach"), [("linf", 0.5), ("l2", 0.5 * 360**0.5)])
def test_a_wrong_claim_of_the_ball_is_refused(norm: Norm, reach: float) -> None:
    perturbations = torch.stack([torch.full(SHAPE, 0.1), torch.full(SHAPE, -0.5)])
    check_inside(perturbations, norm, reach)
    # float16 rounds by up to 2^-11 of a value.
    check_inside(perturbations, norm, reach * (1 - 2**-11))
    with pytest.raises(DataError, match=rf"Perturbation 2 of 2 .* {norm} norm is {reach:.4g}, .*"):
        check_inside(perturbations, norm, 0.8 * reach)
    with pytest.raises(InvalidArgumentError, match="epsilon"):
        check_inside(perturbations, norm, 255 * reach)


@pytest.mark.skipif(not PUBLISHED, reason="the published perturbations are not on this machine")
def test_published_perturbations_are_what_they_are_said_to_be() -> None:
    for path in PUBLISHED:
        shape = (3, 32, 32) if path.name.startswith("cifar10") else (3, 224, 224)
        found = load_perturbations(path, shape)
        check_inside(found, "linf", 10 / 255)
        with pytest.raises(DataError, match=r"10/255 and 8/255"):
            check_inside(found, "linf", 8 / 255)
        with pytest.raises(DataError, match=r"already on \[0, 1\]"):
            load_perturbations(path, shape, scale=255)
