"""Tensors come back bit by bit or not at all; an optimiser goes on as if never stopped."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prn_guard.errors import ArtifactError, StorageError
from prn_guard.nn.target import state_digest
from training.checkpoint import load_tensors, resume_training, save_tensors, save_training


def _tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weights": torch.randn(3, 4, generator=generator).T,
        "half": torch.randn(5, generator=generator).half(),
        "double": torch.tensor(1e-300, dtype=torch.float64),
        "count": torch.tensor([2**60, -1]),
        "mask": torch.tensor([True, False]),
        "nothing": torch.zeros(0, 3, 4, 4),
    }


def test_what_was_saved_comes_back_bit_by_bit(tmp_path: Path) -> None:
    metadata = {"rates": [0.1, 1 / 3], "count": 7, "names": {"a": None}, "text": "x|y"}
    save_tensors(tmp_path / "new" / "file.safetensors", _tensors(), metadata)
    tensors, read = load_tensors(tmp_path / "new" / "file.safetensors")
    assert read == metadata
    assert set(tensors) == set(_tensors())
    for name, value in _tensors().items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.safetensors"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    path = tmp_path / "file.safetensors"
    broken = torch.tensor([0.0, value], dtype=dtype)
    save_tensors(path, {"fine": torch.zeros(2), "broken": broken}, {})
    with pytest.raises(ArtifactError, match="tensor broken holds values that are not finite"):
        load_tensors(path)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "file.safetensors"
    save_tensors(path, _tensors(), {"count": 1})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ArtifactError, match=r"file\.safetensors is no whole safetensors file"):
        load_tensors(path)


def test_metadata_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_tensors(path, {"a": torch.zeros(1)}, {"count": [1, 2]})
    path.write_bytes(path.read_bytes().replace(b"[1, 2]", b"[1, 2)"))
    with pytest.raises(ArtifactError, match="no whole safetensors file of this project"):
        load_tensors(path)


def test_a_missing_file_is_told_apart_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is missing"):
        load_tensors(tmp_path / "file.safetensors")


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_tensors(path, {"a": torch.ones(2)}, {})
    with pytest.raises(StorageError, match="could not be written"):
        save_tensors(path / "below", {"a": torch.zeros(2)}, {})
    assert torch.equal(load_tensors(path)[0]["a"], torch.ones(2))
    assert [found.name for found in tmp_path.iterdir()] == ["file.safetensors"]


def _start(*, width: int = 3, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2))
    return module, torch.optim.Adam(module.parameters(), lr=0.02)


def _steps(module: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for number in range(first, last):
        generator = torch.Generator().manual_seed(number)
        optimizer.zero_grad()
        module(torch.randn(8, 4, generator=generator)).square().sum().backward()
        optimizer.step()


def test_a_training_goes_on_exactly_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    straight, optimizer = _start()
    _steps(straight, optimizer, 0, 9)
    stopped, optimizer = _start()
    _steps(stopped, optimizer, 0, 4)
    save_training(path, stopped, optimizer, done=4)

    resumed, fresh = _start(seed=1)
    assert resume_training(path, resumed, fresh).done == 4
    assert state_digest(resumed) == state_digest(stopped)
    kept, restored = optimizer.state_dict(), fresh.state_dict()
    assert restored["param_groups"] == kept["param_groups"]
    assert restored["state"].keys() == kept["state"].keys() == set(range(6))
    for index, moments in kept["state"].items():
        assert set(moments) == {"step", "exp_avg", "exp_avg_sq"}
        for name, value in moments.items():
            assert torch.equal(restored["state"][index][name], value), (index, name)
    _steps(resumed, fresh, 4, 9)
    assert state_digest(resumed) == state_digest(straight)


def test_without_a_file_a_training_begins(tmp_path: Path) -> None:
    module, optimizer = _start()
    before = state_digest(module)
    for path in (None, tmp_path / "state.safetensors"):
        assert resume_training(path, module, optimizer).done == 0
    assert state_digest(module) == before


@pytest.mark.parametrize("other", ["wider", "tensors", "no count"])
def test_the_state_of_another_training_is_refused(tmp_path: Path, other: str) -> None:
    path = tmp_path / "state.safetensors"
    if other == "wider":
        save_training(path, *_start(width=5), done=3)
    elif other == "tensors":
        save_tensors(path, {"perturbations": torch.zeros(2, 1, 4, 4)}, {"done": 3})
    else:
        weights = {f"module.{name}": value for name, value in _start()[0].state_dict().items()}
        save_tensors(path, weights, {})
    with pytest.raises(ArtifactError, match=r"state\.safetensors belongs to another training"):
        resume_training(path, *_start())
