"""Accuracy after each epoch of a hardening, as a chart."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from training.evaluation.charts import LIGHT, styled

LINES = (
    ("clean", "o", "-", "clean pictures"),
    ("universal", "s", "--", "under a universal perturbation"),
)


def training_curve(epochs: Sequence[dict[str, Any]], *, kept: int) -> bytes:
    """Accuracy on the validation pictures with its intervals, as SVG.

    Args:
        epochs: after each, its number and the figures `clean` and `universal`.
        kept: number of the epoch whose weights are kept.
    """
    numbers = [one["epoch"] for one in epochs]
    with styled(LIGHT):
        figure = Figure(figsize=(5.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        for (name, marker, line, label), color in zip(
            LINES, (LIGHT.guarded, LIGHT.undefended), strict=True
        ):
            values = [one[name]["value"] for one in epochs]
            axes.fill_between(
                numbers,
                [one[name]["low"] for one in epochs],
                [one[name]["high"] for one in epochs],
                color=color,
                alpha=0.15,
                linewidth=0,
            )
            axes.plot(numbers, values, marker=marker, linestyle=line, color=color, label=label)
        axes.axvline(
            kept, color=LIGHT.ink, linewidth=1, linestyle="-.", label="the epoch that is kept"
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation pictures classified correctly")
        axes.legend()
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
        return stream.getvalue()
