"""Curves: the radii, and rates that are those of the answers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from prn_guard.nn.guarded import GuardedClassifier
from tests.tolerances import BALL, FIGURE, assert_close
from training.attacks.norms import norm_of
from training.datasets import Pictures
from training.evaluation.informed.curves import budgets, fooling_against_epsilon, scaled_epsilon
from training.evaluation.outcomes import answers
from training.guard.folder import load_bank


def test_scaled_bounds_end_where_pictures_do() -> None:
    assert scaled_epsilon("linf", 0.15, (1, 12, 12), 2.0) == 0.3
    assert scaled_epsilon("linf", 0.15, (1, 12, 12), 10.0) == 1.0
    assert scaled_epsilon("l2", 3.0, (1, 12, 12), 2.0) == 6.0
    assert scaled_epsilon("l2", 3.0, (1, 12, 12), 10.0) == 12.0  # the root of 1 * 12 * 12


@pytest.mark.parametrize(
    ("steps", "found"), [(1000, (125, 250, 500, 1000)), (5, (1, 2, 5)), (1, (1,))]
)
def test_budgets_double(steps: int, found: tuple[int, ...]) -> None:
    assert budgets(steps) == found


def test_a_row_per_scale(
    guarded: GuardedClassifier, test_set: Pictures, guard_folder: Path
) -> None:
    unseen = load_bank(guard_folder).unseen
    asked: list[float] = []

    def informed(scale: float) -> Tensor | None:
        asked.append(scale)
        return -2 * unseen[0] if scale > 1 else None

    rows = fooling_against_epsilon(
        guarded, test_set, unseen[:1], informed, norm="linf", epsilon=0.15, scales=(1.0, 2.0)
    )
    assert asked == [1.0, 2.0]
    assert [row["epsilon"] for row in rows] == [0.15, 0.3]
    assert ["adaptive" in row for row in rows] == [False, True]
    clean = answers(guarded, test_set).bare
    assert_close(norm_of(unseen[0], "linf"), 0.15, BALL)
    for row, factor in zip(rows, (1, 2), strict=True):
        seen = answers(guarded, test_set, unseen[0] / norm_of(unseen[0], "linf") * 0.15 * factor)
        assert_close(row["guarded"]["value"], (seen.guarded != clean).mean(), FIGURE)
        assert_close(row["undefended"]["value"], (seen.bare != clean).mean(), FIGURE)
    crafted = answers(guarded, test_set, -2 * unseen[0])
    assert_close(rows[1]["adaptive"]["value"], (crafted.guarded != clean).mean(), FIGURE)


def test_without_held_out_perturbations_only_the_informed_ones(
    guarded: GuardedClassifier, test_set: Pictures
) -> None:
    rows = fooling_against_epsilon(
        guarded, test_set, None, lambda _: torch.zeros(test_set.shape),
        norm="linf", epsilon=0.15, scales=(1.0,),
    )  # fmt: skip
    assert set(rows[0]) == {"epsilon", "adaptive"}
