"""The chart of a hardening shows both series and the epoch that is kept."""

import re
from typing import Any

import numpy as np
import pytest

from tests.tolerances import FIGURE, assert_close
from training.hardening import training_curve as module
from training.hardening.training_curve import training_curve


def _figure(value: float) -> dict[str, float]:
    return {"value": value, "n": 100, "low": value - 0.05, "high": value + 0.05}


def _epochs(*values: tuple[float, float]) -> list[dict[str, Any]]:
    return [
        {
            "epoch": number,
            "clean": _figure(clean),
            "universal": _figure(universal),
        }
        for number, (clean, universal) in enumerate(values, start=1)
    ]


def test_both_series_are_drawn_with_their_intervals_and_the_epoch_that_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures: list[Any] = []
    figure = module.Figure

    def keep(*arguments: Any, **named: Any) -> Any:
        figures.append(figure(*arguments, **named))
        return figures[-1]

    monkeypatch.setattr(module, "Figure", keep)
    training_curve(_epochs((0.9, 0.3), (0.92, 0.7), (0.8, 0.75)), kept=2)
    axes = figures[0].axes[0]
    clean, universal, best = axes.lines
    assert_close(clean.get_xydata(), [(1, 0.9), (2, 0.92), (3, 0.8)], FIGURE)
    assert_close(universal.get_xydata(), [(1, 0.3), (2, 0.7), (3, 0.75)], FIGURE)
    assert set(best.get_xdata()) == {2}
    for band, values in zip(axes.collections, ((0.9, 0.92, 0.8), (0.3, 0.7, 0.75)), strict=True):
        corners = band.get_paths()[0].vertices
        for epoch, value in enumerate(values, start=1):
            heights = corners[np.isclose(corners[:, 0], epoch), 1]
            assert_close((heights.min(), heights.max()), (value - 0.05, value + 0.05), FIGURE)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "clean pictures",
        "under a universal perturbation",
        "the epoch that is kept",
    ]


@pytest.mark.parametrize("count", [1, 3])
def test_the_chart_is_an_svg_without_a_date(count: int) -> None:
    chart = training_curve(_epochs(*[(0.9, 0.5)] * count), kept=1).decode()
    assert chart.rstrip().endswith("</svg>")
    assert not re.search(r"<dc:date>\s*\d", chart)
