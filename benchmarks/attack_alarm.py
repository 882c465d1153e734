"""The attack alarm, simulated: false alarms, run lengths, and how soon attacks are found.

    .venv/bin/python -m benchmarks.attack_alarm

Flags are drawn, no classifier runs. Clean pictures are flagged with the chance p0 itself, the
highest for which the alarm promises anything, or with the very share that a random calibration
leaves above its threshold; attacked ones with the detection rate. Everything is float64 NumPy
under seed 0. Writes `benchmarks/results/attack_alarm.json`, and its tables into
docs/attack-alarm.md. Takes some minutes on one core.
"""

import math
import platform
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from scipy import stats

from benchmarks.alarm_streams import BETWEEN, WARM_UP, Array, delays_of, run_lengths
from benchmarks.publishing import commit, publish, table
from prn_guard import console
from prn_guard.files import read_json, write_json
from prn_guard.serve.alarm import CONFIDENCE, clean_share_bound, likelihood_ratios
from training.guard.fit_detector import conformal_rank
from training.progress import tracked

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "benchmarks" / "results" / "attack_alarm.json"
PAGE: Final = ROOT / "docs" / "attack-alarm.md"

RATE: Final = 0.01
CALIBRATIONS: Final = (500, 5000)
REQUESTS: Final = 100_000
BLOCK: Final = 1000


def main(
    streams: Annotated[int, typer.Option(min=100, help="Clean streams of 100,000.")] = 20_000,
    runs: Annotated[int, typer.Option(min=10, help="Run lengths until a false alarm.")] = 400,
    attacks: Annotated[int, typer.Option(min=100, help="Attacks of each kind.")] = 10_000,
    out: Annotated[Path, typer.Option(help="The result file.")] = RESULT,
) -> None:
    """Simulate, write down, publish."""
    rng = np.random.default_rng(0)
    cases = list(product(CALIBRATIONS, (0.05, 0.5), (0.9, 1.0)))
    clean, lengths, delays, recoveries = [], [], [], []
    with tracked("Alarm") as track:
        for number, pictures in enumerate(CALIBRATIONS):
            clean += _clean_rows(pictures, streams, rng)
            lengths.append(_length_row(pictures, runs, rng))
            recoveries += recovery_rows(pictures)
            track(number + 1, len(CALIBRATIONS) + len(cases), f"{pictures} calibration pictures")
        for number, (pictures, share, detected) in enumerate(cases):
            for confidence in (CONFIDENCE, 0.99):
                delays.append(_delay_row(pictures, share, detected, confidence, attacks, rng))
            track(len(CALIBRATIONS) + number + 1, len(CALIBRATIONS) + len(cases), "attacks")
    write_json(
        out,
        {
            "commit": commit(),
            "versions": {"numpy": np.__version__, "python": platform.python_version()},
            "false_positive_rate": RATE,
            "pictures_between_false_alarms": BETWEEN,
            "confidence": CONFIDENCE,
            "requests": REQUESTS,
            "warm_up": WARM_UP,
            "clean": clean,
            "run_lengths": lengths,
            "delays": delays,
            "recoveries": recoveries,
        },
    )
    if out == RESULT:
        publish(PAGE, "attack_alarm", render(read_json(out)))
    console.say(render(read_json(out)))


def recovery_rows(pictures: int) -> list[dict[str, Any]]:
    """The chance that a block of 1,000 pictures takes the alarm back, exactly."""
    clean = clean_share_bound(RATE, pictures)
    kinds = {
        "clean, flagged at the calibrated rate": RATE,
        "clean, flagged at p0": clean,
        "5 % attacked, 90 % of them detected": 0.05 * 0.9 + 0.95 * RATE,
    }
    return [
        {
            "calibration_pictures": pictures,
            "traffic": kind,
            "chance": float(stats.binom.cdf(math.floor(BLOCK * RATE), BLOCK, share)),
        }
        for kind, share in kinds.items()
    ]


def render(result: Mapping[str, Any]) -> str:
    """The tables of docs/attack-alarm.md, in Markdown."""
    versions = ", ".join(f"{name} {found}" for name, found in result["versions"].items())
    parts = [
        _clean_table(result),
        _length_table(result),
        _delay_table(result),
        _recovery_table(result),
    ]
    origin = (
        f"Simulated with {versions} (commit {result['commit']}); false-positive rate "
        f"{result['false_positive_rate']:g}, N = {result['pictures_between_false_alarms']:,.0f}.\n"
    )
    return "\n".join([*parts, origin])


def _ratios(clean_share: float) -> tuple[Array, Array]:
    unflagged, flagged = likelihood_ratios(clean_share)
    return np.array(unflagged), np.array(flagged)


def _clean_rows(pictures: int, streams: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    bound = clean_share_bound(RATE, pictures)
    rank = conformal_rank(pictures, RATE)
    chances = {
        "p0 itself": np.full(streams, bound),
        "as random calibrations leave it": rng.beta(pictures + 1 - rank, rank, streams),
    }
    rows = []
    for kind, drawn in chances.items():
        alarms = int(np.isfinite(run_lengths(drawn, _ratios(bound), REQUESTS, rng)).sum())
        interval = stats.binomtest(alarms, streams).proportion_ci(0.95)
        rows.append(
            {
                "calibration_pictures": pictures,
                "clean_share_bound": bound,
                "chance": kind,
                "streams": streams,
                "with_alarm": alarms,
                "interval": [float(interval.low), float(interval.high)],
                "stated": REQUESTS / BETWEEN,
            }
        )
    return rows


def _length_row(pictures: int, runs: int, rng: np.random.Generator) -> dict[str, Any]:
    bound = clean_share_bound(RATE, pictures)
    lengths = run_lengths(np.full(runs, bound), _ratios(bound), np.inf, rng)
    return {
        "calibration_pictures": pictures,
        "runs": runs,
        "mean": float(lengths.mean()),
        "standard_error": float(lengths.std(ddof=1) / math.sqrt(runs)),
        "stated": BETWEEN,
    }


def _delay_row(
    pictures: int,
    share: float,
    detected: float,
    confidence: float,
    attacks: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    bound = clean_share_bound(RATE, pictures, confidence=confidence)
    flagged = share * detected + (1 - share) * RATE
    delays = delays_of(RATE, flagged, _ratios(bound), attacks, rng)
    return {
        "calibration_pictures": pictures,
        "confidence": confidence,
        "attacked_share": share,
        "detection_rate": detected,
        "attacks": attacks,
        "median": float(np.median(delays)),
        "p95": float(np.quantile(delays, 0.95)),
    }


def _clean_table(result: Mapping[str, Any]) -> str:
    rows = [
        (
            f"{row['calibration_pictures']:,}",
            f"{100 * row['clean_share_bound']:.2f} %",
            row["chance"],
            f"{row['with_alarm']} of {row['streams']:,}",
            _percent(row["with_alarm"] / row["streams"], row["interval"]),
            f"at most {100 * row['stated']:g} %",
        )
        for row in result["clean"]
    ]
    return table(
        (
            "calibration pictures", "p0", "clean pictures are flagged with chance",
            f"streams of {result['requests']:,} clean pictures with a false alarm",
            "share (95 % interval)", "stated",
        ),
        rows,
        left=3,
    )  # fmt: skip


def _percent(share: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{100 * share:.2f} % ({100 * low:.2f} to {100 * high:.2f})"


def _length_table(result: Mapping[str, Any]) -> str:
    rows = [
        (
            f"{row['calibration_pictures']:,}",
            f"{row['mean'] / 1e6:.1f} million ± {row['standard_error'] / 1e6:.1f}",
            f"at least {row['stated'] / 1e6:g} million",
            f"{row['runs']}",
        )
        for row in result["run_lengths"]
    ]
    return table(
        ("calibration pictures", "pictures until a false alarm, flagged with p0", "stated", "runs"),
        rows,
        left=1,
    )


def _delay_table(result: Mapping[str, Any]) -> str:
    def cell(row: Mapping[str, Any]) -> str:
        return f"{row['median']:,.0f} ({row['p95']:,.0f})"

    used, other = (
        [row for row in result["delays"] if (row["confidence"] == result["confidence"]) == chosen]
        for chosen in (True, False)
    )
    rows = [
        (
            f"{row['calibration_pictures']:,}",
            f"{100 * row['attacked_share']:g} %",
            f"{100 * row['detection_rate']:g} %",
            cell(row),
            cell(beside),
            f"{row['attacks']:,}",
        )
        for row, beside in zip(used, other, strict=True)
    ]
    return table(
        (
            "calibration pictures", "attacked", "of them detected",
            "pictures until the alarm, median (95 %)", "the same, were p0's confidence 0.99",
            "attacks",
        ),
        rows,
        left=3,
    )  # fmt: skip


def _recovery_table(result: Mapping[str, Any]) -> str:
    rows = [
        (f"{row['calibration_pictures']:,}", row["traffic"], f"{row['chance']:.2g}")
        for row in result["recoveries"]
    ]
    return table(
        ("calibration pictures", "traffic", "chance that a block of 1,000 takes the alarm back"),
        rows,
        left=2,
    )


if __name__ == "__main__":
    typer.run(main)
