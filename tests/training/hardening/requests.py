"""Hardenings of the tiny target that take seconds."""

from typing import Any

from tests.training.small import NAMES, SHAPE
from tests.training.tiny_guard import EPSILON, Workplace
from training.datasets import NamedPictures, load_pictures
from training.hardening.job import MethodOptions
from training.hardening.recipe import Recipe
from training.hardening.request import HardeningRequest
from training.targets import load_target

UAT: dict[str, Any] = {"method": "uat", "options": MethodOptions(rule="adam")}
RATES: dict[str, Any] = {"epochs": 3, "batch_size": 24, "learning_rate": 0.01}


def hardening(work: Workplace, **changes: Any) -> HardeningRequest:
    """Three epochs of plain fine-tuning, changed as told; `rates` changes the recipe."""
    spec = str(work.images)
    sets = {
        split: load_pictures(spec, split=split, size=SHAPE, class_count=len(NAMES))
        for split in ("train", "test")
    }
    usual: dict[str, Any] = {
        "loaded": load_target(work.target, weights=str(work.weights)),
        "training": NamedPictures(spec, sets["train"]),
        "test": None,
        "method": "plain",
        "norm": "linf",
        "epsilon": EPSILON,
        "recipe": Recipe(**RATES | changes.pop("rates", {})),
        "seed": 5,
    }
    return HardeningRequest(**usual | changes)


def held_for_testing(work: Workplace) -> NamedPictures:
    """The test pictures, to be given to a request."""
    return work.request().test
