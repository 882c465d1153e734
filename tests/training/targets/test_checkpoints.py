"""Weights files: what is unwrapped, what is loaded, and what is refused."""

import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from prn_guard.errors import TargetError
from training.targets.checkpoints import check_state, load_weights, read_checkpoint

ROOT = Path(__file__).parents[3]
CIFAR10 = Path(os.environ.get("PRN_GUARD_DATA", ROOT.parent / "shared" / "data")) / "cifar10_models"


def _net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3))


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.mark.parametrize("suffix", ["pt", "pth", "th", "bin", "safetensors"])
def test_every_kind_of_file_is_read(tmp_path: Path, suffix: str) -> None:
    state = _net().state_dict()
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    assert _equal(read_checkpoint(path), state)


@pytest.mark.parametrize("keys", [("state_dict",), ("model",), ("model", "state_dict")])
def test_wrappers_and_the_parallel_prefix_are_taken_off(
    tmp_path: Path, keys: tuple[str, ...]
) -> None:
    state = _net().state_dict()
    content: object = {f"module.{name}": value for name, value in state.items()}
    for key in keys:
        content = {key: content, "epoch": 7, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "w.pt")
    assert _equal(read_checkpoint(tmp_path / "w.pt"), state)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"a": Trap()}, protocol=2))
    torch.save({"a": Trap()}, tmp_path / "zip.pt")
    torch.save(_net(), tmp_path / "whole.pt")
    for name in ("raw", "zip", "whole"):
        with pytest.raises(TargetError, match=rf"{name}\.pt .*could run code.*safetensors"):
            read_checkpoint(tmp_path / f"{name}.pt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 20])
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TargetError, match=name):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    if suffix == "pt":
        torch.save(_net().state_dict(), path)
    else:
        safetensors.torch.save_file(_net().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TargetError, match="cannot be read"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds Tensor; expected a state dictionary"),
        ([torch.zeros(3)], "holds list"),
        ({"epoch": 3, "net": {}}, "'epoch' of type int among the weights"),
        ({0: torch.zeros(3)}, "0 of type Tensor"),
    ],
)
def test_what_is_no_state_dictionary_is_refused(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(TargetError, match=message):
        read_checkpoint(tmp_path / "w.pt")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(b"")
    with pytest.raises(TargetError, match=r"ends in \.npz; expected \.safetensors, \.bin"):
        read_checkpoint(tmp_path / "w.npz")
    with pytest.raises(TargetError, match="no weights file"):
        read_checkpoint(tmp_path / "missing.pt")


def test_loading_makes_the_states_equal() -> None:
    net, other = _net(0), _net(1)
    load_weights(net, other.state_dict(), "other")
    assert _equal(dict(net.state_dict()), dict(other.state_dict()))


def test_old_checkpoints_without_batch_counters_load() -> None:
    state = dict(_net(1).state_dict())
    del state["1.num_batches_tracked"]
    net = _net(0)
    load_weights(net, state, "old")
    assert torch.equal(net[0].weight, state["0.weight"])


def test_a_mismatch_lists_the_first_of_each_kind() -> None:
    state = dict(_net().state_dict())
    del state["0.bias"]
    state["3.weight"] = torch.zeros(10, 72)
    state |= {f"extra.{index}": torch.zeros(1) for index in range(9)}
    with pytest.raises(TargetError) as caught:
        load_weights(_net(), state, "w.pt")
    message = str(caught.value)
    assert "missing (1): 0.bias." not in message
    assert "missing (1): 0.bias;" in message
    assert "unexpected (9): extra.0, extra.1, extra.2, extra.3, ...;" in message
    assert "of another shape (1): 3.weight is (10, 72), expected (3, 72)." in message


def test_a_missing_key_alone_is_a_mismatch() -> None:
    state = dict(_net().state_dict())
    del state["1.running_mean"]
    with pytest.raises(TargetError, match=r"missing \(1\): 1\.running_mean\."):
        load_weights(_net(), state, "w.pt")


@pytest.mark.parametrize(
    ("name", "value"), [("0.weight", float("nan")), ("1.running_var", float("inf"))]
)
def test_weights_that_are_not_finite_are_refused_by_name(name: str, value: float) -> None:
    net = _net()
    net.state_dict()[name].view(-1)[1] = value
    with pytest.raises(TargetError, match=rf"'{name}' holds 1 values that are NaN or infinite"):
        check_state(net)


def test_masks_may_hold_minus_infinity_but_weights_may_not() -> None:
    net = _net()
    net.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    check_state(net)
    net.register_parameter("scale", nn.Parameter(torch.tensor([-torch.inf])))
    with pytest.raises(TargetError, match="'scale'"):
        check_state(net)


def test_state_that_is_no_tensor_is_refused() -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

        def set_extra_state(self, state: object) -> None: ...

    with pytest.raises(TargetError, match="'_extra_state' is dict"):
        check_state(Odd(2, 2))


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="the CIFAR-10 checkpoints are not on this machine")
def test_a_real_old_checkpoint_is_read() -> None:
    state = read_checkpoint(CIFAR10 / "resnet20-12fca82f.th")
    assert state["conv1.weight"].shape == (16, 3, 3, 3)
    assert state["linear.weight"].shape == (10, 64)
