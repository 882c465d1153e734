"""What the charts and tables of a comparison show."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.training.evaluation.compared import EPSILONS, comparison
from training.evaluation.comparison_figures import (
    CHARTS,
    accuracy_chart,
    evasion_chart,
    front_chart,
    look,
    pareto_front,
    similarity_chart,
    targeted_chart,
    write_charts,
)
from training.evaluation.comparison_table import jacobian_rows, print_comparison, robustness_rows

NAMES = ("standard", "uat $8$", "jacobian")


def _labels(figure: Figure | None) -> list[str]:
    assert figure is not None
    return [text.get_text() for text in figure.legends[0].get_texts()]


def _curves(figure: Figure | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Data of the lines, without those of error bars."""
    assert figure is not None
    bars = [container[0] for container in figure.axes[0].containers]
    lines = bars or figure.axes[0].lines
    return [(np.asarray(one.get_xdata()), np.asarray(one.get_ydata())) for one in lines]


def test_accuracies_stand_in_rows() -> None:
    figure = accuracy_chart(comparison(*NAMES))
    assert figure is not None
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "standard", r"uat \$8\$", "jacobian",
    ]  # fmt: skip
    assert [(float(x[0]), int(y[0])) for x, y in _curves(figure)] == [
        (0.95, 0), (1 - 0.08, 1), (1 - 0.11, 2),
    ]  # fmt: skip
    assert axes.yaxis_inverted()


def test_evasion_starts_at_the_test_error_and_runs_over_epsilon() -> None:
    content = comparison(*NAMES)
    del content["networks"]["jacobian"]["accuracy"]
    figure = evasion_chart(content)
    curves = _curves(figure)
    assert _labels(figure) == ["standard", r"uat \$8\$", "jacobian"]
    assert curves[0][0].tolist() == [0, *sorted(EPSILONS)]
    assert curves[0][1].tolist() == pytest.approx([0.05, 0.25, 0.45, 0.85])
    assert curves[2][0].tolist() == sorted(EPSILONS)


def test_targeted_success_has_bars_of_a_standard_deviation() -> None:
    figure = targeted_chart(comparison(*NAMES))
    assert figure is not None
    assert len(_labels(figure)) == len(_curves(figure)) == 3
    assert _curves(figure)[1][1].tolist() == pytest.approx([0.25, 0.4, 0.7])
    for container in figure.axes[0].containers:
        (bars,) = container[2]
        heights = [top - bottom for (_, bottom), (_, top) in bars.get_segments()]
        assert heights == pytest.approx([0.04] * 3)


def test_medians_are_marked_on_the_histograms() -> None:
    figure = similarity_chart(comparison(*NAMES))
    assert figure is not None
    assert _labels(figure) == [
        "standard, median 0.50", r"uat \$8\$, median 0.30", "jacobian, median 0.10",
    ]  # fmt: skip
    outlines = [one for one in figure.axes[0].patches if not one.get_fill()]
    assert len(outlines) == 3
    for (across, up), outline in zip(_curves(figure), outlines, strict=True):
        values, edges, _ = outline.get_data()
        assert values.sum() == pytest.approx(1)
        place = np.searchsorted(edges, across[1], side="right") - 1
        assert up.tolist() == [0, values[place]]


def test_the_front_joins_what_nothing_dominates() -> None:
    content = comparison(*NAMES, "worse", "endless")
    networks = content["networks"]
    networks["worse"]["universal-robustness"]["epsilon"] = 0.05
    networks["endless"]["universal-robustness"] |= {"epsilon": None, "not_reached": 0.9}
    figure = front_chart(content)
    assert _labels(figure) == [*_labels(front_chart(comparison(*NAMES))), "worse",
                               "endless (not reached)"]  # fmt: skip
    *points, front = _curves(figure)
    assert [float(up[0]) for _, up in points] == pytest.approx([0.1, 0.12, 0.14, 0.05, 0.9])
    assert front[0].tolist() == pytest.approx([0.83, 0.89, 0.92, 0.95])
    assert front[1].tolist() == pytest.approx([0.9, 0.14, 0.12, 0.1])


def test_a_pareto_front_agrees_with_its_definition() -> None:
    generator = np.random.default_rng(1)
    for count in (1, 2, 8, 30):
        # Few values, so that many points share one or both.
        points = [(float(a), float(b)) for a, b in generator.integers(0, 6, (count, 2))]
        expected = set()
        for number, (first, second) in enumerate(points):
            better = [(a >= first and b > second) or (a > first and b >= second) for a, b in points]
            if not any(better):
                expected.add(number)
        front = pareto_front(points)
        assert set(front) == expected
        assert len(set(front)) == len(front) > 0
        ordered = [points[number] for number in front]
        assert ordered == sorted(ordered)
        assert [up for _, up in ordered] == sorted((up for _, up in ordered), reverse=True)
    assert pareto_front([]) == []


def test_networks_look_different_and_the_same_in_every_chart() -> None:
    assert len({str(look(number)) for number in range(40)}) == 40
    assert len({look(number).color for number in range(8)}) == 8
    content = comparison(*NAMES)
    del content["networks"]["standard"]["targeted"]
    for draw in (evasion_chart, targeted_chart, similarity_chart, front_chart):
        assert len(_labels(draw(content))) == (2 if draw is targeted_chart else 3)
    figure = targeted_chart(content)
    assert figure is not None
    assert figure.axes[0].containers[0][0].get_color() == look(1).color


def test_charts_of_what_was_not_measured_are_not_drawn(tmp_path: Path) -> None:
    content = comparison(*NAMES)
    assert {path.name for path in write_charts(content, tmp_path)} == set(CHARTS)
    for path in tmp_path.iterdir():
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            assert (picture.format, picture.width) == ("PNG", 960)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_charts(content, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    for measured in content["networks"].values():
        for part in ("targeted", "universal-robustness"):
            del measured[part]
        measured["jacobian"]["similarity"] = None
    drawn = {"accuracy.png", "evasion-over-epsilon.png"}
    assert {path.name for path in write_charts(content, tmp_path)} == drawn
    # Those of an earlier run, of which nothing is left, do not stay beside the figures.
    assert {path.name for path in tmp_path.iterdir()} == drawn
    empty: dict[str, Any] = {"request": content["request"], "networks": {"bare": {"identity": "x"}}}
    assert write_charts(empty, tmp_path) == []


def test_tables_show_the_radius_that_was_asked_for() -> None:
    content = comparison("standard", "bare", "odd")
    content["networks"]["bare"] = {"identity": "x", "evasion": {"0.2": {}}}
    odd = content["networks"]["odd"]
    odd["universal-robustness"] |= {"epsilon": None, "not_reached": 0.875}
    odd["rho-adv"]["rho_adv"] = odd["jacobian"]["similarity"] = None
    standard = content["networks"]["standard"]
    error, uer = standard["accuracy"]["test_error"], standard["evasion"]["0.1"]["uer"]
    distance, norm = standard["rho-adv"]["rho_adv"], standard["jacobian"]["norm"]
    first, bare, last = robustness_rows(content)
    assert first == (
        "standard",
        f"5.0 [{100 * error['low']:.1f}-{100 * error['high']:.1f}]",
        f"45.0 [{100 * uer['low']:.1f}-{100 * uer['high']:.1f}]",
        "50.00 ± 2.00",
        "<= 0.1",
        f"0.1 [{distance['low']:.3g}-{distance['high']:.3g}]",
    )
    assert bare == ("bare", *["-"] * 5)
    assert last[4:] == ("above 0.875", "-")
    clean, other = jacobian_rows(content)
    assert clean[:2] == ("standard", f"0.6 [{norm['low']:.3g}-{norm['high']:.3g}]")
    assert clean[2].startswith("0.7 [")
    assert clean[3:] == ("30.5", "300.5", "0.500")
    assert (other[0], other[-1]) == ("odd", "-")


def test_the_threat_is_printed_with_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_comparison(comparison(*NAMES))
    printed = " ".join(capsys.readouterr().out.split())
    for text in ("epsilon 0.1", "n = 400", "100 steps of 200 pictures", "upper bound"):
        assert text in printed
