"""Target, attack and detection on the real set, where Debian's package is installed."""

from pathlib import Path

import pytest
import torch

from training.attacks.command import craft_and_measure
from training.attacks.fooling import fooling_rate, predict
from training.attacks.subject import Subject, parted
from training.datasets import load_pictures
from training.datasets.fashion_mnist import SYSTEM_FOLDER
from training.demo import train_lenet
from training.demo.lenet import lenet
from training.targets.checkpoints import load_weights, read_checkpoint


@pytest.mark.skipif(not SYSTEM_FOLDER.is_dir(), reason=f"Fashion-MNIST is not in {SYSTEM_FOLDER}")
def test_one_pattern_breaks_a_lenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_lenet, "EPOCHS", 5)
    training = load_pictures("fashion-mnist", split="train", limit=6000)
    test = load_pictures("fashion-mnist", split="test", limit=1000)
    accuracy = train_lenet.train_lenet(
        training, test, tmp_path / "lenet.safetensors", seed=0, least_accuracy=0.7
    )
    assert accuracy > 0.7
    target = lenet()
    load_weights(target.classifier, read_checkpoint(tmp_path / "lenet.safetensors"), "lenet")
    crafting, judging = parted(test, None, seed=0, device=torch.device("cpu"))
    subject = Subject(
        attacked=target, deployed=target, crafting=crafting, judging=judging, identity="lenet"
    )
    _, found = craft_and_measure(
        subject,
        method_name="sign-pgd",
        norm="linf",
        epsilon=0.15,
        steps=40,
        seed=0,
    )
    assert found["judging_pictures"] == 500
    noise = 0.15 * torch.randn(1, 28, 28, generator=torch.Generator().manual_seed(0)).sign()
    by_chance = fooling_rate(predict(target, test), predict(target, test, noise))
    assert found["fooling_rate"] > max(0.3, 2 * by_chance), by_chance
