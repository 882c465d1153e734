"""A guard that is fitted in a second, from what a user has on disk: factory, weights, pictures."""

import dataclasses
import functools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from prn_guard.nn.rectifier import RectifierSpec
from tests.training.small import NAMES, SHAPE, pictures, trained_target
from training.attacks import stochastic_gradient
from training.attacks.engine import Schedule
from training.datasets import ArrayPictures, NamedPictures, load_pictures
from training.guard import crafting
from training.guard import recipe as recipes
from training.guard import request as requests
from training.guard.request import FitOptions, FitRequest
from training.perturbations.bank import BankCriteria
from training.targets import load_target, save_target_state

EPSILON = 0.15
TRAINING, TEST = 240, 90
OPTIONS = FitOptions(members=4, held_out=2, synthetic=4, epochs=40, false_positive_rate=0.1, seed=5)
FIT = (
    *("--members", "3", "--held-out", "1", "--synthetic", "2", "--epochs", "1"),
    *("--rounds", "1", "--false-positive-rate", "0.1"),
)
"""Options of the command line for a fit of a tenth of a second."""
SPEC = RectifierSpec(channels=1, factor=1, width=4, blocks=1)
FACTORY = """
from torch import nn

from prn_guard.contract import InputSpec
from prn_guard.nn.target import Target


def build():
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(216, 24), nn.ReLU(), nn.Linear(24, 3),
    )
    spec = InputSpec(
        channels=1, height=12, width=12, mean=(0.5,), std=(0.25,), channel_order="gray"
    )
    return Target(network, spec)
"""


@dataclass(frozen=True)
class Workplace:
    """Paths of what a user starts from."""

    factory: Path
    weights: Path
    images: Path
    """Folder with idx files."""

    @property
    def target(self) -> str:
        return f"{self.factory}:build"

    def arguments(self) -> tuple[str, ...]:
        """Options of the command line that name target and pictures."""
        target = ("--target", self.target, "--weights", str(self.weights))
        return (*target, "--images", str(self.images))

    def request(self, **changes: Any) -> FitRequest:
        """A request for the tiny guard, its options changed as told."""
        spec = str(self.images)
        sets = {
            split: load_pictures(spec, split=split, size=SHAPE, class_count=len(NAMES))
            for split in ("train", "test")
        }
        return FitRequest(
            loaded=load_target(self.target, weights=str(self.weights)),
            training=NamedPictures(spec, sets["train"]),
            test=NamedPictures(spec, sets["test"]),
            norm="linf",
            epsilon=EPSILON,
            options=dataclasses.replace(OPTIONS, **changes),
        )


def make_workplace(folder: Path) -> Workplace:
    """Write factory, weights and pictures into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    work = Workplace(folder / "factory.py", folder / "weights.safetensors", folder / "pictures")
    work.factory.write_text(FACTORY)
    save_target_state(trained_target(), work.weights)
    write_idx(work.images, "train", partly_mislabelled(pictures(TRAINING, seed=11)))
    write_idx(work.images, "t10k", partly_mislabelled(pictures(TEST, seed=12)))
    return work


def partly_mislabelled(of: ArrayPictures) -> ArrayPictures:
    """Every tenth label is another, so that the target is not always right."""
    labels = of.labels.clone()
    labels[::10] = (labels[::10] + 1) % len(NAMES)
    return ArrayPictures(of._images, labels, of.class_names)


def write_idx(folder: Path, prefix: str, of: ArrayPictures) -> None:
    """Write gray pictures and their labels as MNIST's files are."""
    folder.mkdir(parents=True, exist_ok=True)
    _, height, width = of.shape
    header = struct.pack(">4I", 0x803, len(of), height, width)
    pixels = of._images.numpy().tobytes()
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels)
    labels = bytes(of.labels.tolist())
    header = struct.pack(">2I", 0x801, len(of))
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels)


def write_blank_idx(folder: Path, *, side: int = SHAPE[1], label: int = 2) -> Path:
    """Write four black pictures of a size and label that may not fit, as both splits."""
    pixels = torch.zeros(4, 1, side, side, dtype=torch.uint8)
    of = ArrayPictures(pixels, torch.full((4,), label), tuple("0123456789"))
    for prefix in ("train", "t10k"):
        write_idx(folder, prefix, of)
    return folder


def make_fitting_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the rectifier tiny and rounds short, and take perturbations that fool a little."""
    monkeypatch.setattr(requests, "default_spec", lambda *_: SPEC)
    few = dataclasses.replace(
        recipes.RECIPES["default"], rounds=2, round_iterations=5, attack_steps=4
    )
    monkeypatch.setitem(recipes.RECIPES, "default", few)
    lenient = functools.partial(BankCriteria, least_fooling=0.2)
    monkeypatch.setattr(crafting, "BankCriteria", lenient)
    # The tests know what this guard flags: its bank does not follow the defaults of attacks.
    steps = functools.partial(Schedule, travel=80.0, decay=0.975)
    monkeypatch.setattr(stochastic_gradient, "Schedule", steps)
    monkeypatch.setattr(stochastic_gradient, "LARGEST_BATCH", 200)
