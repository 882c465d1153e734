"""Figures of perturbations, as PNG: contact sheet, fooling against epsilon, where pictures go."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from torch import Tensor

from training.evaluation.charts import LIGHT, plain, styled
from training.evaluation.pixels import SHOWN_WHOLE, for_the_eye

Row = Mapping[str, Any]
DPI: Final = 100
TILE: Final = 230
"""Pixels; smaller perturbations are enlarged by a whole number, so that every value is a square."""
LARGEST_TILE: Final = 448
GAP: Final = 20
CAPTION: Final = 64
HEAD: Final = 62
LETTER: Final = 8.2
"""Pixels that a letter of title and captions takes, on average, rather more than less."""
ALIKE: Final = 2.0
"""Perturbations whose sizes differ by more than this factor are scaled each by itself."""
COLORS: Final = (
    "#b34a00", "#0067a5", "#a02c7a", "#007a5a", "#8a6d00", "#3d6f9e", "#c2543d", "#5b5b5b",
)  # fmt: skip
MARKERS: Final = "osD^vP<>"


def contact_sheet(perturbations: Tensor, rows: Sequence[Row], *, norm: str) -> bytes:
    """All perturbations on one sheet, around middle gray, with name, norm and fooling rate.

    Args:
        perturbations: `(P, C, H, W)` for pixels in [0, 1], C of 1 or 3, none of them 0.
        rows: of each, `name`, `norm` and the figure `fooling_rate`.
        norm: `linf` or `l2`.
    """
    count, _, height, width = perturbations.shape
    reaches = [_reach(one) for one in perturbations]
    common = max(reaches) <= ALIKE * min(reaches)
    times = max(1, TILE // max(height, width))
    shrink = min(1.0, LARGEST_TILE / max(height, width))
    tall, wide = (max(1, round(times * shrink * side)) for side in (height, width))
    cell = max(wide, TILE - GAP) + GAP, tall + CAPTION + GAP
    columns = min(count, max(4, round(math.sqrt(1.4 * count * cell[1] / cell[0]))))
    lines = -(-count // columns)
    columns = -(-count // lines)
    title = _title(max(reaches) if common else None, perturbations)
    size = (
        max(columns * cell[0], int(LETTER * max(map(len, title.split("\n")))) + GAP),
        (HEAD + lines * cell[1]),
    )
    with styled(LIGHT):
        figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
        figure.text(GAP / 2 / size[0], 1 - 10 / size[1], title, va="top", size=9.5)
        for number, (one, row) in enumerate(zip(perturbations, rows, strict=True)):
            left = (number % columns) * cell[0] + GAP // 2
            top = HEAD + (number // columns) * cell[1]
            reach = max(reaches) if common else reaches[number]
            place = (left, size[1] - top - tall, wide, tall)
            axes = figure.add_axes(
                (place[0] / size[0], place[1] / size[1], wide / size[0], tall / size[1])
            )
            _draw(axes, for_the_eye(one, 0.5 / reach), smooth=shrink < 1)
            caption = _caption(row, norm, int((cell[0] - GAP) / LETTER))
            if not common:
                caption += f"\nshown ±{255 * reach:.3g}/255"
            figure.text(place[0] / size[0], (place[1] - 5) / size[1], caption, va="top", size=8.5)
        return _png(figure)


def epsilon_curves(numbers: Row) -> bytes:
    """Fooling rate of each perturbation against epsilon, with that of random noise.

    Args:
        numbers: `norm`, `epsilon`, `pictures`, `epsilons`, `random_noise` and, of each of
            `perturbations`, `name` and `fooling_against_epsilon`.
    """
    rows, norm = numbers["perturbations"], numbers["norm"]
    unit = 255 if norm == "linf" else 1
    radius = f"{unit * numbers['epsilon']:.3g}" + ("/255" if norm == "linf" else "")
    places = [unit * epsilon for epsilon in numbers["epsilons"]]
    curves = [row["fooling_against_epsilon"] for row in rows]
    with styled(LIGHT):
        figure = Figure(figsize=(7.2, 5.2), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        if len(rows) <= len(COLORS):
            for number, row in enumerate(rows):
                axes.plot(
                    places, curves[number], color=COLORS[number], marker=MARKERS[number],
                    linewidth=1.8, markersize=5, label=plain(_short(row["name"], 48)),
                )  # fmt: skip
        else:
            for number, curve in enumerate(curves):
                label = f"each of the {len(rows)} perturbations" if number == 0 else None
                axes.plot(places, curve, color=LIGHT.guarded, linewidth=0.8, alpha=0.4, label=label)
            middle = np.median(np.asarray(curves), axis=0)
            axes.plot(
                places, middle, color=LIGHT.guarded, linewidth=2.4, marker="o", label="median"
            )
        axes.plot(
            places, numbers["random_noise"], color=LIGHT.ink, linestyle="--", linewidth=1.5,
            label="chance: random noise of the same norm",
        )  # fmt: skip
        axes.axvline(
            unit * numbers["epsilon"], color=LIGHT.ink, linewidth=1, linestyle="-.",
            label=f"epsilon = {radius}",
        )  # fmt: skip
        axes.set_title(f"Fooling against epsilon, n = {numbers['pictures']:,} pictures", size=12)
        axes.set_xlabel(
            "linf epsilon, in 255ths" if norm == "linf" else "l2 epsilon, [0, 1] pixels"
        )
        axes.set_ylabel("share of pictures fooled")
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower left", frameon=False, fontsize=9, ncols=2)
        return _png(figure)


def confusion_map(counts: NDArray[np.int64], class_names: Sequence[str], row: Row) -> bytes:
    """Predicted label clean against predicted label under the perturbation, as a heat map.

    Args:
        counts: `(K, K)`, `[clean, perturbed]`.
        class_names: K names.
        row: `name`, `fooling_rate` and `sent_to` of the perturbation.
    """
    classes = len(counts)
    side = 3.0 + 0.5 * classes
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    with styled(LIGHT):
        figure = Figure(figsize=(side, 0.86 * side), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.grid(visible=False)
        for (clean, perturbed), value in np.ndenumerate(counts):
            color = "white" if shares[clean, perturbed] > 0.55 else LIGHT.ink
            weight = "bold" if clean == perturbed else "normal"
            axes.text(
                perturbed, clean, f"{value}" if value else "", ha="center", va="center",
                size=8, color=color, weight=weight,
            )  # fmt: skip
        labels = [plain(_short(name, 18)) for name in class_names]
        axes.set_xticks(range(classes), labels, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(classes), labels)
        axes.set_xlabel("predicted under the perturbation (bold: unchanged)")
        axes.set_ylabel("predicted for the clean picture")
        axes.set_title(_sent_title(row), size=10, loc="left")
        bar = figure.colorbar(image, ax=axes, shrink=0.7, format=PercentFormatter(1.0, symbol=" %"))
        bar.set_label("share of the row")
        return _png(figure)


def receiving_bars(class_names: Sequence[str], row: Row) -> bytes:
    """The classes that receive most of the pictures whose label changes, as bars.

    Args:
        class_names: one per class.
        row: `name`, `fooling_rate` and `sent_to` of the perturbation.
    """
    sent = row["sent_to"]
    most, changed = sent["most_receiving"], sent["changed"]
    with styled(LIGHT):
        figure = Figure(figsize=(7.6, 1.8 + 0.3 * max(len(most), 1)), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        names = [plain(_short(class_names[one["label"]], 40)) for one in most]
        shares = [one["pictures"] / changed for one in most]
        bars = axes.barh(range(len(most)), shares, color=LIGHT.guarded)
        axes.bar_label(
            bars,
            [
                f"{one['pictures']} ({_percent(share)})"
                for one, share in zip(most, shares, strict=True)
            ],
            padding=3,
            size=8.5,
        )
        axes.set_yticks(range(len(most)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.25 * max(shares, default=1.0))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(
            f"share of the {changed:,} changed pictures; these {len(most)} classes get "
            f"{_percent(sum(shares))}; {sent['receiving_classes']} of {len(class_names)} get any"
        )
        axes.set_title(_sent_title(row), size=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        return _png(figure)


def _sent_title(row: Row) -> str:
    rate, sent = row["fooling_rate"], row["sent_to"]
    lines = [plain(_short(row["name"], 60))]
    lines.append(f"{_percent(rate['value'])} of {rate['n']:,} pictures get another label")
    if sent["most_receiving"]:
        first = plain(_short(sent["most_receiving"][0]["class"], 40))
        lines.append(f"{_percent(sent['dominant_share_of_changed'])} of these go to {first}")
    return "\n".join(lines)


def _reach(perturbation: Tensor) -> float:
    """The size up to which `SHOWN_WHOLE` of the values lie."""
    sizes = perturbation.abs().flatten().double().numpy()
    return float(np.quantile(sizes, SHOWN_WHOLE)) or float(sizes.max())


def _title(reach: float | None, perturbations: Tensor) -> str:
    if reach is None:
        return (
            "Perturbations, scaled for the eye, each by itself:\nblack to white as stated below it"
        )
    title = f"Perturbations, scaled for the eye:\n±{255 * reach:.3g}/255 shown as black to white"
    beyond = float((perturbations.abs() > reach * (1 + 1e-6)).double().mean())
    return f"{title}, {_percent(beyond)} of the values lie beyond" if beyond else title


def _caption(row: Row, norm: str, letters: int) -> str:
    size = f"{255 * row['norm']:.3g}/255" if norm == "linf" else f"{row['norm']:.3g}"
    first, rest = row["name"][:letters], row["name"][letters:]
    name = plain(first + (f"\n{_short(rest, letters)}" if rest else ""))
    return f"{name}\n{norm} {size}, fools {_percent(row['fooling_rate']['value'])}"


def _draw(axes: Axes, image: Tensor, *, smooth: bool) -> None:
    pixels = image.permute(1, 2, 0).numpy()
    axes.imshow(
        pixels[:, :, 0] if pixels.shape[2] == 1 else pixels,
        cmap="gray", vmin=0, vmax=1, aspect="auto",
        interpolation="antialiased" if smooth else "nearest",
    )  # fmt: skip
    axes.set_axis_off()


def _short(text: str, letters: int) -> str:
    """At most so many letters: the middle of a long name tells least."""
    if len(text) <= letters:
        return text
    end = (letters - 1) // 2
    return f"{text[: letters - 1 - end]}…{text[-end:]}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor="white", metadata={"Software": None})
    return stream.getvalue()
