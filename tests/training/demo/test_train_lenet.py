"""The demonstration's classifier: its architecture, and a training that can be interrupted."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from prn_guard.errors import TargetError
from prn_guard.nn.target import count_classes, state_digest
from training.attacks.fooling import predict
from training.checkpoint import load_tensors
from training.datasets import ArrayPictures
from training.demo import train_lenet as module
from training.demo.lenet import lenet, network
from training.demo.train_lenet import _flip_half, train_lenet
from training.targets import load_target

LENET = str(Path(module.__file__).with_name("lenet.py")) + ":lenet"
NAMES = tuple("0123456789")


def _bars(count: int, seed: int) -> ArrayPictures:
    """A bright bar at the height of the label, on noise: the same when flipped."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    pixels = torch.randint(100, (count, 1, 28, 28), generator=generator)
    for row, label in enumerate(labels.tolist()):
        pixels[row, :, 2 * label + 4 : 2 * label + 7] = 255
    return ArrayPictures(pixels.to(torch.uint8), labels, NAMES)


@pytest.fixture(autouse=True)
def _few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EPOCHS", 5)
    monkeypatch.setattr(module, "BATCH_SIZE", 50)
    monkeypatch.setattr(module, "LEAST_ACCURACY", 0.0)


def test_the_architecture() -> None:
    assert sum(value.numel() for value in network().parameters()) == 61_706
    assert count_classes(lenet()) == 10
    assert lenet().spec.shape == (1, 28, 28)


def test_training_learns_and_its_accuracy_is_that_of_the_written_weights(tmp_path: Path) -> None:
    out, test = tmp_path / "lenet.safetensors", _bars(120, 1)
    accuracy = train_lenet(_bars(400, 0), test, out, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["lenet.safetensors"]
    loaded = load_target(LENET, weights=str(out))
    right = (predict(loaded.target, test) == test.labels).double().mean()
    assert accuracy == float(right)
    assert accuracy > 0.6


def test_a_lenet_below_the_demonstrations_wish_is_refused_and_not_written(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"wants at least 99\.9%"):
        train_lenet(
            _bars(100, 0), _bars(20, 1), tmp_path / "l.safetensors", seed=0, least_accuracy=0.999
        )
    assert not (tmp_path / "l.safetensors").exists()


def test_interrupted_training_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, test = _bars(100, 0), _bars(20, 1)
    for name, seed in (("whole", 4), ("other", 5)):
        train_lenet(training, test, tmp_path / f"{name}.safetensors", seed=seed)
    flips = iter(range(1, 100))

    def stopping(images: Tensor, generator: torch.Generator) -> Tensor:
        if next(flips) == 6:  # two steps an epoch: inside the third
            raise KeyboardInterrupt
        return _flip_half(images, generator)

    with monkeypatch.context() as patched:
        patched.setattr(module, "_flip_half", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_lenet(training, test, tmp_path / "stopped.safetensors", seed=4)
    assert load_tensors(tmp_path / "stopped.seed-4.state.safetensors")[1]["done"] == 2
    assert not (tmp_path / "stopped.safetensors").exists()
    train_lenet(training, test, tmp_path / "stopped.safetensors", seed=4)
    assert not (tmp_path / "stopped.seed-4.state.safetensors").exists()
    digests = {
        name: state_digest(load_target(LENET, weights=str(tmp_path / f"{name}.safetensors")).target)
        for name in ("whole", "stopped", "other")
    }
    assert digests["whole"] == digests["stopped"] != digests["other"]


def test_half_of_the_pictures_are_flipped_left_to_right() -> None:
    images = torch.rand(1000, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    flipped = _flip_half(images, torch.Generator().manual_seed(0))
    mirrored = (flipped == images.flip(3)).flatten(1).all(dim=1)
    kept = (flipped == images).flatten(1).all(dim=1)
    assert bool((mirrored ^ kept).all())
    assert 430 < int(mirrored.sum()) < 570  # 500 with a standard error of 16
