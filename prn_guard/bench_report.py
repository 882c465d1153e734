"""A benchmark for people: rows of a table, bars of text, and a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from prn_guard.bench import Measured
from prn_guard.errors import InvalidArgumentError
from prn_guard.files import write_whole

COLUMNS: Final = ("batch", "graph", "median ms", "p5", "p95", "p99", "pictures/s", "n")
FORMATS: Final = ("svg", "png", "pdf")
_BAR_WIDTH = 40
_MARKERS: Final = {"guarded": "o", "bare": "s"}
_WIDE = 8
"""Below this ratio of its ends, an axis may hold but one of 1, 2, 5 and 10."""


def rows(results: Sequence[Measured]) -> list[tuple[str, ...]]:
    """Two rows a batch size, as `COLUMNS` says."""
    return [
        (
            str(result.batch_size),
            name,
            *(f"{1e3 * t:.3f}" for t in (side.median, side.p5, side.p95, side.p99)),
            f"{result.throughput(side):,.0f}",
            str(result.rounds),
        )
        for result in results
        for name, side in (("guarded", result.guarded), ("bare", result.bare))
    ]


def bars(results: Sequence[Measured]) -> list[str]:
    """One line a batch size: the ratio guarded / bare as a bar, with its 5-95 % range."""
    longest = max(result.ratio for result in results)
    width = max(len(str(result.batch_size)) for result in results)
    return [
        f"batch {result.batch_size:>{width}}  "
        f"{'█' * max(1, round(_BAR_WIDTH * result.ratio / longest)):<{_BAR_WIDTH}}  "
        f"{result.ratio:.2f} x bare ({result.ratio_p5:.2f} to {result.ratio_p95:.2f})"
        for result in results
    ]


def check_plot(path: Path) -> None:
    """Refuse, before anything is measured, a plot that could not be drawn after it.

    Raises:
        InvalidArgumentError: another ending than svg, png or pdf, or matplotlib is missing.
    """
    if path.suffix.lower().lstrip(".") not in FORMATS:
        raise InvalidArgumentError(
            f"--plot is {path}; expected a name that ends in .svg, .png or .pdf."
        )
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InvalidArgumentError(
            "--plot needs matplotlib, which is not installed. Install prn-guard[reports], or leave "
            "the option out: the table is printed without it."
        ) from error


def plot(path: Path, results: Sequence[Measured], facts: Mapping[str, Any]) -> None:
    """Draw latency and throughput over batch sizes to a file that `check_plot` let pass."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    latency, throughput = figure.subplots(1, 2)
    _draw_latency(latency, results)
    _draw_throughput(throughput, results)
    sizes = [result.batch_size for result in results]
    for axes in (latency, throughput):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.xaxis.minorticks_off()
        axes.margins(x=0.1)
        axes.set_xlabel("batch size, pictures")
        axes.grid(alpha=0.3)
        axes.legend()
    where = facts["gpu"] or facts["cpu"]
    figure.suptitle(
        f"{where}, {facts['threads']} thread(s), {facts['precision']}, {facts['picture']}, "
        f"onnxruntime {facts['onnxruntime']}",
        fontsize=10,
    )
    ending = path.suffix.lower().lstrip(".")
    write_whole(path, lambda partial: figure.savefig(partial, format=ending, dpi=150))


def _draw_latency(axes: Any, results: Sequence[Measured]) -> None:
    """Medians with bars from p5 to p95, and the ratio above each batch size."""
    sizes = [result.batch_size for result in results]
    for name, marker in _MARKERS.items():
        sides = [getattr(result, name) for result in results]
        spread = [
            [1e3 * (side.median - side.p5) for side in sides],
            [1e3 * (side.p95 - side.median) for side in sides],
        ]
        medians = [1e3 * side.median for side in sides]
        axes.errorbar(sizes, medians, yerr=spread, marker=marker, capsize=4, label=name)
    for result in results:
        axes.annotate(
            f"{result.ratio:.2f} x",
            (result.batch_size, 1e3 * max(result.guarded.p95, result.bare.p95)),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
        )
    axes.set(title="Latency: median, bars p5 to p95; ratio guarded / bare")
    axes.set(ylabel="milliseconds a batch", yscale="log")
    axes.margins(y=0.15)
    _plain_ticks(axes)


def _draw_throughput(axes: Any, results: Sequence[Measured]) -> None:
    sizes = [result.batch_size for result in results]
    for name, marker in _MARKERS.items():
        rates = [result.throughput(getattr(result, name)) for result in results]
        axes.plot(sizes, rates, marker=marker, label=name)
    axes.set(title="Throughput at the median", ylabel="pictures a second")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _plain_ticks(axes: Any) -> None:
    """1, 2, 5, 10 on a logarithmic axis, as numbers; evenly spaced ones where it spans little."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    low, high = axes.get_ylim()
    wide = high / low > _WIDE
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20) if wide else MaxNLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
