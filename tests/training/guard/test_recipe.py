"""Rates over a training, the two recipes, and what is refused."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from prn_guard.errors import InvalidArgumentError
from tests.tolerances import FIGURE, SCHEDULE, assert_close
from training.guard.recipe import Recipe, recipe_named


def test_the_papers_recipe_is_the_papers() -> None:
    assert asdict(recipe_named("paper")) == {
        "epochs": 5,
        "learning_rate": 0.01,
        "decay": 0.9,
        "batch_size": 64,
        "perturbed_share": 0.5,
        "mirrored": False,
        "augmented": False,
        "clean_divergence": 0.0,
        "pixels": 0.0,
        "detection": 0.0,
        "adversarial_share": 0.0,
        "rounds": 0,
        "round_iterations": 80,
        "attack_steps": 100,
        "largest_gradient": None,
        "precision": "float32",
        "checkpoint_every": 200,
    }


def test_the_papers_rate_falls_by_a_tenth_after_each_1000_iterations() -> None:
    recipe = recipe_named("paper")
    rates = [recipe.rate(iteration, 3500) for iteration in (0, 999, 1000, 1999, 2000, 3499)]
    assert_close(rates, [0.01, 0.01, 0.009, 0.009, 0.0081, 0.00729], SCHEDULE)


@pytest.mark.parametrize(("iterations", "warm_up"), [(2000, 100), (1000, 100), (40, 4), (5, 0)])
def test_our_rate_rises_evenly_and_falls_along_half_a_cosine(iterations: int, warm_up: int) -> None:
    recipe = recipe_named("default")
    rates = [recipe.rate(number, iterations) for number in range(iterations)]
    rising = recipe.learning_rate * np.arange(1, warm_up + 1) / (warm_up + 1)
    angles = np.arange(iterations - warm_up) * math.pi / (iterations - warm_up)
    falling = recipe.learning_rate * np.cos(angles / 2) ** 2
    assert_close(rates, np.concatenate([rising, falling]), FIGURE)
    assert max(rates) == recipe.learning_rate


def test_a_recipe_takes_another_length_and_precision() -> None:
    recipe = recipe_named("paper", epochs=0.5, precision="bfloat16")
    assert (recipe.epochs, recipe.precision, recipe.decay) == (0.5, "bfloat16", 0.9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0.0}, "epochs is 0.0; expected above 0"),
        ({"epochs": -1.0}, "epochs"),
        ({"epochs": float("nan")}, "epochs"),
        ({"learning_rate": math.inf}, "learning_rate"),
        ({"decay": 0.0}, "decay"),
        ({"largest_gradient": 0.0}, "largest_gradient"),
        ({"clean_divergence": -0.1}, "clean_divergence is -0.1; expected 0 or more"),
        ({"pixels": float("nan")}, "pixels"),
        ({"detection": -1.0}, "detection is -1.0; expected 0 or more"),
        ({"rounds": -1, "detection": 1.0}, "rounds is -1; expected 0 or more"),
        ({"round_iterations": 0}, "round_iterations is 0; expected 1 or more"),
        ({"attack_steps": 0}, "attack_steps is 0; expected 1 or more"),
        ({"adversarial_share": -0.1}, "adversarial_share is -0.1; expected 0 to 1"),
        ({"rounds": 1}, "rounds is 1 and detection is 0"),
        ({"batch_size": 0}, "batch_size is 0; expected 1 or more"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"perturbed_share": 1.1}, "perturbed_share is 1.1"),
        ({"precision": "float16"}, "expected float32 or bfloat16"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        Recipe(**{"epochs": 1, "learning_rate": 0.01} | changes)


def test_a_recipe_of_another_name_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="expected one of default, paper"):
        recipe_named("fast")  # type: ignore[arg-type]
