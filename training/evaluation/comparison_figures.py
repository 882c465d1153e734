"""Charts of compared networks, as PNG.

After Co, Rego, Lupu, "Jacobian Regularization for Mitigating Universal Adversarial Perturbations",
figures 1 to 4, and Mummadi, Brox, Metzen 2019, figure 3. A network has its own color, marker and
line style, the same in every chart. A chart of what was not measured is not drawn.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from prn_guard.files import write_bytes
from training.evaluation.charts import LIGHT, plain, styled
from training.evaluation.perturbation_figures import COLORS, MARKERS

Content = Mapping[str, Any]
DPI: Final = 150
WIDTH: Final = 6.4
HEIGHT: Final = 4.0
LEGEND_ROW: Final = 0.26
"""Inches that a row of the legend adds."""
LEGEND_COLUMNS: Final = 2
LETTERS: Final = 30
"""Of a name in one of the columns."""
LINES: Final = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


class Look(NamedTuple):
    """How a network is drawn."""

    color: str
    marker: str
    line: Any


def look(number: int) -> Look:
    """The look of network `number`; forty differ."""
    return Look(
        COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)], LINES[number % len(LINES)]
    )


def write_charts(content: Content, folder: Path) -> list[Path]:
    """Draw what was measured into `folder`: `compare`'s content, networks in its order."""
    written = []
    with styled(LIGHT):
        for name, draw in CHARTS.items():
            figure = draw(content)
            path = folder / name
            if figure is None:
                path.unlink(missing_ok=True)
                continue
            stream = io.BytesIO()
            figure.savefig(
                stream, format="png", dpi=DPI, facecolor="white", metadata={"Software": None}
            )
            write_bytes(path, stream.getvalue())
            written.append(path)
    return written


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points no other is as good as in both values and better in one; large is good.

    Returns:
        Their positions, by the first value and then by the second.
    """
    front = [
        number
        for number, (first, second) in enumerate(points)
        if not any(
            other[0] >= first and other[1] >= second and other != (first, second)
            for other in points
        )
    ]
    return sorted(front, key=lambda number: points[number])


def accuracy_chart(content: Content) -> Figure | None:
    """Accuracy on clean pictures, a row per network; figure 1."""
    rows = _with(content, "accuracy")
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH, 1.2 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, (number, name, measured) in enumerate(rows):
        accuracy = measured["accuracy"]["clean_accuracy"]
        axes.errorbar(
            accuracy["value"],
            place,
            xerr=[[accuracy["value"] - accuracy["low"]], [accuracy["high"] - accuracy["value"]]],
            capsize=3,
            linestyle="",
            label=_short(name),
            **_point(number),
        )
    axes.set_yticks(range(len(rows)), [_short(name) for _, name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_xlabel("accuracy on clean pictures, with 95 % intervals")
    _bare(axes)
    return figure


def evasion_chart(content: Content) -> Figure | None:
    """Universal evasion rate over epsilon, a line per network; figure 2."""
    rows = _with(content, "evasion")
    if not rows:
        return None
    figure, axes = _with_legend(len(rows))
    for number, name, measured in rows:
        points = [(one["epsilon"], one["uer"]) for one in _curve(measured["evasion"])]
        if "accuracy" in measured:
            points.insert(0, (0.0, measured["accuracy"]["test_error"]))
        _errorbars(
            axes,
            [epsilon for epsilon, _ in points],
            [one["value"] for _, one in points],
            [one["value"] - one["low"] for _, one in points],
            [one["high"] - one["value"] for _, one in points],
            number,
            name,
        )
    _rates_over_epsilon(axes, content, "misclassified (UER), with 95 % intervals")
    return _finished(figure)


def targeted_chart(content: Content) -> Figure | None:
    """Mean targeted success over epsilon, bars of a standard deviation over classes; figure 3."""
    rows = _with(content, "targeted")
    if not rows:
        return None
    figure, axes = _with_legend(len(rows))
    for number, name, measured in rows:
        points = _curve(measured["targeted"])
        spread = [one["standard_deviation"] for one in points]
        _errorbars(
            axes,
            [one["epsilon"] for one in points],
            [one["mean"] for one in points],
            spread,
            spread,
            number,
            name,
        )
    _rates_over_epsilon(axes, content, "sent to the class (TSR), mean ± deviation")
    return _finished(figure)


def similarity_chart(content: Content) -> Figure | None:
    """Histograms of the similarity of Jacobians, medians marked; figure 4."""
    rows = [
        (number, name, measured["jacobian"]["similarity"])
        for number, name, measured in _with(content, "jacobian")
        if measured["jacobian"]["similarity"] is not None
    ]
    if not rows:
        return None
    figure, axes = _with_legend(len(rows))
    for number, name, similarity in rows:
        color, marker, line = look(number)
        counts, edges = similarity["histogram"]["counts"], similarity["histogram"]["edges"]
        shares = [count / similarity["pairs"] for count in counts]
        axes.stairs(shares, edges, fill=True, color=color, alpha=0.08)
        axes.stairs(shares, edges, color=color, linestyle=line, linewidth=1.6)
        median = similarity["median"]
        width = edges[1] - edges[0]
        height = shares[min(int((median - edges[0]) / width), len(shares) - 1)]
        axes.plot(
            [median, median],
            [0, height],
            color=color,
            linestyle=line,
            linewidth=1,
            marker=marker,
            markevery=[1],
            label=f"{_short(name)}, median {median:.2f}",
        )
    axes.set_xlim(-1, 1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_xlabel("cosine of the Jacobians of two pictures")
    axes.set_ylabel(f"pairs, per {2 / len(shares):g} of cosine")
    return _finished(figure)


def front_chart(content: Content) -> Figure | None:
    """Clean accuracy against epsilon_uni, those joined that no other network dominates."""
    rows = [one for one in _with(content, "accuracy") if "universal-robustness" in one[2]]
    if not rows:
        return None
    figure, axes = _with_legend(len(rows))
    points = []
    for number, name, measured in rows:
        found = measured["universal-robustness"]
        reached = found["epsilon"] is not None
        radius = found["epsilon"] if reached else found["not_reached"]
        points.append((measured["accuracy"]["clean_accuracy"]["value"], radius))
        text = _short(name) + ("" if reached else " (not reached)")
        axes.plot(*points[-1], linestyle="", label=text, zorder=3, **_point(number))
    front = pareto_front(points)
    axes.plot(
        [points[number][0] for number in front],
        [points[number][1] for number in front],
        color=LIGHT.ink,
        linewidth=1,
        linestyle="--",
        zorder=1,
    )
    rate = content["request"]["rate"]
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.margins(0.12)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("accuracy on clean pictures")
    axes.set_ylabel(f"epsilon_uni({rate:g}), {content['request']['norm']}, upper bound")
    return _finished(figure)


CHARTS: Final[dict[str, Callable[[Content], Figure | None]]] = {
    "accuracy.png": accuracy_chart,
    "evasion-over-epsilon.png": evasion_chart,
    "targeted-success-over-epsilon.png": targeted_chart,
    "jacobian-similarity.png": similarity_chart,
    "accuracy-against-epsilon-uni.png": front_chart,
}


def _short(name: str) -> str:
    return plain(name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…")


def _with(content: Content, part: str) -> list[tuple[int, str, Mapping[str, Any]]]:
    """Place, name and figures of the networks of which `part` was measured."""
    listed = enumerate(content["networks"].items())
    return [(number, name, measured) for number, (name, measured) in listed if part in measured]


def _curve(points: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(points.values(), key=lambda one: float(one["epsilon"]))


def _point(number: int) -> dict[str, Any]:
    color, marker, _ = look(number)
    return {"color": color, "marker": marker, "markersize": 7}


def _errorbars(
    axes: Axes,
    across: Sequence[float],
    up: Sequence[float],
    below: Sequence[float],
    above: Sequence[float],
    number: int,
    name: str,
) -> None:
    color, marker, line = look(number)
    axes.errorbar(
        across, up, yerr=[below, above], color=color, marker=marker, linestyle=line,
        linewidth=1.8, markersize=6, elinewidth=1, capsize=3, label=_short(name),
    )  # fmt: skip


def _rates_over_epsilon(axes: Axes, content: Content, label: str) -> None:
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_xlabel(f"epsilon ({content['request']['norm']}, pixels in [0, 1])")
    axes.set_ylabel(label)


def _with_legend(rows: int) -> tuple[Figure, Axes]:
    size = (WIDTH, HEIGHT + LEGEND_ROW * -(-rows // LEGEND_COLUMNS))
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def _finished(figure: Figure) -> Figure:
    (axes,) = figure.axes
    _bare(axes)
    figure.legend(loc="outside lower left", frameon=False, fontsize=10, ncols=LEGEND_COLUMNS)
    return figure


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
