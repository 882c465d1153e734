"""Recipes: what is refused, and when a training may end."""

from typing import Any

import pytest

from prn_guard.errors import InvalidArgumentError
from tests.training.hardening.networks import recipe


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"batch_size": 0}, {"patience": 0}, {"learning_rate": 0.0},
        {"learning_rate": float("nan")}, {"learning_rate": float("inf")}, {"drops": (0.0,)},
        {"drops": (0.5, 1.0)}, {"momentum": -0.1}, {"momentum": 1.0}, {"weight_decay": -1e-4},
        {"largest_gradient": 0.0}, {"largest_gradient": -1.0}, {"optimizer": "rmsprop"},
        {"augmentation": "cutout"},
    ],
)  # fmt: skip
def test_recipes_out_of_range_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{next(iter(wrong))} is "):
        recipe(**wrong)


@pytest.mark.parametrize(
    ("drops", "epoch", "kept", "stops"),
    [
        ((), 5, 2, True), ((), 5, 3, False), ((), 1, 1, False),
        ((0.5,), 9, 1, False), ((0.5,), 10, 1, True), ((0.3, 0.8), 15, 1, False),
        ((0.3, 0.8), 16, 13, True), ((0.3, 0.8), 16, 14, False),
    ],
)  # fmt: skip
def test_patience_ends_no_training_before_its_last_drop(
    drops: tuple[float, ...], epoch: int, kept: int, stops: bool
) -> None:
    assert recipe(epochs=20, drops=drops, patience=3).may_stop(epoch, kept) is stops
