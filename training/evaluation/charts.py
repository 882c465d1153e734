"""The two charts of a report, as SVG: detector ROC, and fooling against epsilon.

Colors are those of Okabe and Ito, told apart under the common color deficiencies; every series has
a marker and a line style of its own besides.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

SIZE = (5.4, 4.7)
MARKERS = "Dv^Pp<>h"
POINT = (("undefended", "o", "-"), ("guarded", "s", "--"), ("adaptive", "D", ":"))


@dataclass(frozen=True)
class Palette:
    """Colors of one color scheme."""

    ink: str
    grid: str
    undefended: str
    guarded: str
    adaptive: str


LIGHT: Final = Palette("#1b1f24", "#c9ced6", "#b34a00", "#0067a5", "#a02c7a")
DARK: Final = Palette("#e6e8eb", "#444b55", "#e69f00", "#56b4e9", "#e58cc0")


def roc_chart(metrics: Mapping[str, Any], palette: Palette) -> bytes:
    """The detector's ROC on a logarithmic axis, and what it flags under adaptive attack, as SVG.

    Clean and held-out pictures give the curve; the marks are at the guard's own threshold.
    """
    roc, alarms = metrics["roc"], metrics["false_positive_rate"]
    # A rate of 0 has no place on a logarithmic axis: it is drawn at half a picture.
    least = 0.5 / alarms["n"]
    with styled(palette):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        shown = [max(rate, least) for rate in roc["false_positive_rate"]]
        axes.plot(
            shown,
            roc["true_positive_rate"],
            color=palette.guarded,
            linewidth=2,
            label=f"held-out perturbations, area {roc['area']:.4f}",
        )
        axes.plot(
            *_diagonal(least), color=palette.ink, linewidth=1, linestyle=":", label="by chance"
        )
        here = max(alarms["value"], least)
        flagged = metrics["perturbed_flagged_rate"]["value"]
        axes.plot(
            here,
            flagged,
            "o",
            color=palette.guarded,
            markersize=8,
            label=f"at the guard's threshold: {100 * flagged:.1f} % flagged",
        )
        for number, row in enumerate(metrics["adaptive"]):
            flagged = row["perturbed_flagged_rate"]["value"]
            axes.plot(
                here,
                flagged,
                MARKERS[number % len(MARKERS)],
                color=palette.adaptive,
                markersize=8,
                clip_on=False,
                zorder=3,
                label=plain(f"adaptive, {row['surrogate']}: {100 * flagged:.1f} % flagged"),
            )
        axes.set_xscale("log")
        axes.set_xlim(least, 1)
        axes.xaxis.set_major_formatter(lambda rate, _: f"{100 * rate:g} %")
        axes.set_xlabel("clean pictures flagged by mistake (logarithmic)")
        axes.set_ylabel("perturbed pictures flagged")
        return _finish(figure, axes)


def fooling_chart(metrics: Mapping[str, Any], palette: Palette) -> bytes:
    """Fooling rates against epsilon with their intervals, as SVG.

    The star is the surrogate that fools the guard most at the epsilon of the training; the curve of
    adaptive points may be crafted through another.
    """
    threat, points = metrics["threat_model"], metrics["fooling_against_epsilon"]
    labels = {
        "undefended": "held-out perturbations scaled, no guard",
        "guarded": "held-out perturbations scaled, guarded",
        "adaptive": "adaptive, crafted anew at each epsilon",
    }
    with styled(palette):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(
            threat["epsilon"],
            color=palette.ink,
            linewidth=1,
            linestyle="-.",
            label="epsilon of the training",
        )
        for name, marker, line in POINT:
            rows = [(one["epsilon"], one[name]) for one in points if one.get(name) is not None]
            _with_intervals(axes, rows, getattr(palette, name), marker, line, labels[name])
        worst = most_fooling(metrics)
        star = [(threat["epsilon"], worst["guarded_fooling_rate"])]
        label = plain(f"adaptive, worst at this epsilon ({worst['surrogate']})")
        _with_intervals(axes, star, palette.adaptive, "*", "", label, size=14)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"epsilon ({threat['norm']}, pixels in [0, 1])")
        axes.set_ylabel("answers changed (fooling rate)")
        return _finish(figure, axes)


def most_fooling(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row of the adaptive attacker that fools the guard most."""
    rows: list[Mapping[str, Any]] = metrics["adaptive"]
    return max(rows, key=lambda row: float(row["guarded_fooling_rate"]["value"]))


def _with_intervals(
    axes: Axes,
    rows: list[tuple[float, Mapping[str, Any]]],
    color: str,
    marker: str,
    line: str,
    label: str,
    *,
    size: float = 6,
) -> None:
    if not rows:
        return
    # A bootstrap interval need not hold its value; a negative bar would be refused.
    below = [max(0.0, one["value"] - one["low"]) for _, one in rows]
    above = [max(0.0, one["high"] - one["value"]) for _, one in rows]
    axes.errorbar(
        [epsilon for epsilon, _ in rows],
        [one["value"] for _, one in rows],
        yerr=[below, above],
        color=color,
        marker=marker,
        linestyle=line,
        markersize=size,
        linewidth=2,
        elinewidth=1.2,
        capsize=3,
        label=label,
    )


def _diagonal(least: float) -> tuple[list[float], list[float]]:
    rates = [least * (1 / least) ** (step / 60) for step in range(61)]
    return rates, rates


def _finish(figure: Figure, axes: Axes) -> bytes:
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower left", frameon=False, fontsize=10)
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return stream.getvalue()


@contextlib.contextmanager
def styled(palette: Palette) -> Iterator[None]:
    """Our settings instead of the user's; the same figures give the same bytes."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rc("svg", hashsalt="prn-guard")
        mpl.rc("font", size=11)
        mpl.rc("text", color=palette.ink)
        mpl.rc("axes", edgecolor=palette.ink, labelcolor=palette.ink, grid=True)
        mpl.rc("xtick", color=palette.ink)
        mpl.rc("ytick", color=palette.ink)
        mpl.rc("grid", color=palette.grid, linewidth=0.6)
        yield


def plain(text: str) -> str:
    """Text that matplotlib must not read as a formula."""
    return text.replace("$", r"\$")
