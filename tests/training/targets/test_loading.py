"""Targets end to end: scaling against float64 arithmetic, digests, saving and restoring."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prn_guard.contract import InputSpec
from prn_guard.errors import ArtifactError, InvalidArgumentError, TargetError
from prn_guard.nn.target import Target, count_classes, state_digest
from training.targets import InputOptions, load_target, restore_target, save_target_state

PLAIN = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(),
                         nn.Linear(4 * 36, 5))

def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5))

def broken():
    net = build()
    net[0].weight.data[1, 0, 0, 0] = float("nan")
    return net

class Picky(nn.Linear):
    def forward(self, x):
        raise AssertionError("Wrong image height!")

def picky():
    return Picky(2, 2)
"""
OWNING = """
from prn_guard.contract import InputSpec
from prn_guard.nn.target import Target
from torch import nn

def build():
    spec = InputSpec(channels=1, height=8, width=8, mean=(MEAN,), std=(0.5,), channel_order="gray")
    return Target(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), spec)
"""
SHAPE = InputOptions(shape=(3, 8, 8))


def _file(folder: Path, text: str = PLAIN) -> str:
    (folder / "net.py").write_text(text)
    return str(folder / "net.py")


def _images(channels: int = 3) -> torch.Tensor:
    return torch.rand(4, channels, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("pixel_range", [1, 255])
def test_the_scaling_is_the_stated_one(tmp_path: Path, order: str, pixel_range: int) -> None:
    mean, std = np.array([0.5, 0.4, 0.3]) * pixel_range, np.array([0.2, 0.3, 0.4]) * pixel_range
    options = InputOptions((3, 8, 8), tuple(mean), tuple(std), pixel_range, order)
    target = load_target(f"{_file(tmp_path)}:linear", input_options=options).target
    layer = target.classifier[1]
    pixels = _images().numpy().astype(np.float64) * pixel_range
    if order == "bgr":
        pixels = pixels[:, ::-1]
    scaled = (pixels - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
    weight, bias = layer.weight.numpy().astype(np.float64), layer.bias.numpy().astype(np.float64)
    expected = scaled.reshape(4, -1) @ weight.T + bias
    # 192 terms of order 1 in float32: about 192 * 6e-8.
    assert np.abs(target(_images()).numpy() - expected).max() < 2e-5


def test_gray_is_scaled_with_its_one_mean(tmp_path: Path) -> None:
    target = load_target(f"{_file(tmp_path, OWNING.replace('MEAN', '0.25'))}:build").target
    layer = target.classifier[1]
    scaled = (_images(1).numpy().astype(np.float64) - 0.25) / 0.5
    expected = scaled.reshape(4, -1) @ layer.weight.double().numpy().T + layer.bias.numpy()
    assert np.abs(target(_images(1)).numpy() - expected).max() < 2e-5


def test_what_was_loaded_is_told(tmp_path: Path) -> None:
    spec = f"{_file(tmp_path)}:build"
    loaded = load_target(spec, input_options=SHAPE)
    assert (loaded.spec, loaded.weights, loaded.class_count) == (spec, None, 5)
    assert count_classes(loaded.target) == 5


def test_train_does_not_change_the_answers(tmp_path: Path) -> None:
    target = load_target(f"{_file(tmp_path)}:build", input_options=SHAPE).target
    before, digest = target(_images()), state_digest(target)
    target.train()
    assert torch.equal(target(_images()), before)
    assert nn.Sequential(target).train()[0].training is False
    assert torch.equal(target(_images()), before)
    assert state_digest(target) == digest
    assert not any(parameter.requires_grad for parameter in target.parameters())


@pytest.mark.parametrize("text", [PLAIN, OWNING.replace("MEAN", "0.25")])
def test_weights_go_into_the_classifier(tmp_path: Path, text: str) -> None:
    spec = f"{_file(tmp_path, text)}:build"
    options = SHAPE if text == PLAIN else None
    other = load_target(spec, input_options=options).target.classifier
    state = {name: value + value.std() for name, value in other.state_dict().items()
             if value.is_floating_point()}  # fmt: skip
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pt")
    loaded = load_target(spec, weights=str(tmp_path / "w.pt"), input_options=options)
    assert loaded.weights == str(tmp_path / "w.pt")
    for name, value in state.items():
        assert torch.equal(loaded.target.classifier.state_dict()[name], value)


def test_a_digest_tells_states_apart(tmp_path: Path) -> None:
    spec = f"{_file(tmp_path)}:build"
    first, second = (load_target(spec, input_options=SHAPE).target for _ in range(2))
    assert state_digest(first) == state_digest(second)
    weight = second.classifier.get_parameter("4.weight")
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    assert state_digest(first) != state_digest(second)


@pytest.mark.parametrize("text", [PLAIN, OWNING.replace("MEAN", "0.25")])
def test_a_saved_target_comes_back_bit_by_bit(tmp_path: Path, text: str) -> None:
    spec = f"{_file(tmp_path, text)}:build"
    target = load_target(spec, input_options=SHAPE if text == PLAIN else None).target
    target.classifier[-1].bias += 1
    state = tmp_path / "guard" / "target.safetensors"
    save_target_state(target, state)
    restored = restore_target(spec, target.spec, state, state_digest(target))
    images = _images(target.spec.channels)
    assert torch.equal(restored(images), target(images))
    assert restored.spec == target.spec


def test_tied_weights_are_saved_and_come_back(tmp_path: Path) -> None:
    text = (
        "from torch import nn\ndef build():\n  a = nn.Linear(64, 64)\n"
        "  return nn.Sequential(nn.Flatten(), a, nn.ReLU(), a)\n"
    )
    spec = f"{_file(tmp_path, text)}:build"
    target = load_target(spec, input_options=InputOptions(shape=(1, 8, 8))).target
    save_target_state(target, tmp_path / "s.safetensors")
    restored = restore_target(spec, target.spec, tmp_path / "s.safetensors", state_digest(target))
    assert torch.equal(restored(_images(1)), target(_images(1)))


def test_a_guard_folder_that_changed_is_refused(tmp_path: Path) -> None:
    spec = f"{_file(tmp_path)}:build"
    target = load_target(spec, input_options=SHAPE).target
    state, digest = tmp_path / "target.safetensors", state_digest(target)
    with pytest.raises(ArtifactError, match="no weights file"):
        restore_target(spec, target.spec, state, digest)
    target.classifier[-1].bias += 1
    save_target_state(target, state)
    with pytest.raises(ArtifactError, match=f"fitted to {digest[:12]}"):
        restore_target(spec, target.spec, state, digest)
    state.write_bytes(state.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="cannot be read"):
        restore_target(spec, target.spec, state, digest)


def test_a_factory_that_changed_is_refused(tmp_path: Path) -> None:
    for name, mean in (("then", "0.25"), ("now", "0.5")):
        (tmp_path / name).mkdir()
        _file(tmp_path / name, OWNING.replace("MEAN", mean))
    target = load_target(f"{tmp_path}/then/net.py:build").target
    save_target_state(target, tmp_path / "s.safetensors")
    digest = state_digest(target)
    with pytest.raises(TargetError, match="now states the input"):
        restore_target(
            f"{tmp_path}/now/net.py:build", target.spec, tmp_path / "s.safetensors", digest
        )
    with pytest.raises(TargetError, match="do not belong to this classifier"):
        restore_target(f"{_file(tmp_path)}:build", target.spec, tmp_path / "s.safetensors", digest)


def test_a_plain_module_needs_its_shape(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="Give --input-shape"):
        load_target(f"{_file(tmp_path)}:build")


def test_options_beside_an_owning_factory_are_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, OWNING.replace("MEAN", "0.25"))
    with pytest.raises(InvalidArgumentError, match="states its own input"):
        load_target(f"{path}:build", input_options=InputOptions(pixel_range=1))


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("broken", SHAPE, r"'0\.weight' holds 1 values that are NaN"),
        ("build", InputOptions(shape=(3, 12, 12)), "fails on a picture of shape"),
        ("build", InputOptions(shape=(1, 8, 8)), "fails on a picture of shape"),
        ("picky", SHAPE, "AssertionError: Wrong image height!"),
    ],
)
def test_targets_that_do_not_answer_are_refused(
    tmp_path: Path, factory: str, options: InputOptions, message: str
) -> None:
    with pytest.raises(TargetError, match=message):
        load_target(f"{_file(tmp_path)}:{factory}", input_options=options)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("net.py", "no factory in it"),
        ("w.safetensors", r"--weights w\.safetensors"),
        ("w.pth", "says nothing of the architecture"),
        ("", "neither"),
    ],
)
def test_other_forms_are_answered_with_what_to_give(spec: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        load_target(spec)


def test_a_state_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    spec = InputSpec(channels=1, height=8, width=8, mean=(0.0,), std=(1.0,), channel_order="gray")
    target = Target(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), spec)
    target.classifier[1].bias[0] = torch.inf
    with pytest.raises(TargetError, match=r"1\.bias"):
        save_target_state(target, tmp_path / "s.safetensors")
    assert not list(tmp_path.iterdir())
