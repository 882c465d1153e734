"""The tables of a transfer measurement, for the terminal and the report alike."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from prn_guard import console
from training.evaluation.tables import percent

GUARD: Final = "guard"
ROW_COLUMNS: Final = (
    ("undefended_perturbed_accuracy", "accuracy, bare target"),
    ("guarded_perturbed_accuracy", "accuracy, guarded"),
    ("rectified_perturbed_accuracy", "accuracy, all rectified"),
    ("perturbed_flagged_rate", "flagged"),
    ("undefended_fooling_rate", "fooling rate, bare target"),
    ("guarded_fooling_rate", "fooling rate, guarded"),
    ("relative_accuracy", "guarded / clean accuracy"),
)
ALARM_COLUMNS: Final = (
    ("false_positive_rate", "flagged"),
    ("clean_accuracy", "accuracy, bare target"),
    ("guarded_clean_accuracy", "accuracy, guarded"),
)

Row = tuple[str, list[Mapping[str, Any]]]
"""A name, and its figures."""


def perturbation_rows(transfer: Mapping[str, Any]) -> list[Row]:
    """A row per group and size, with the figures of `ROW_COLUMNS`."""
    return [
        (_described(row, transfer["threat_model"]), [row[key] for key, _ in ROW_COLUMNS])
        for row in transfer["perturbations"].values()
    ]


def baseline_names(transfer: Mapping[str, Any]) -> list[str]:
    """The columns of `baseline_rows`: every baseline, and the guard."""
    return [*transfer["baselines"], GUARD]


def baseline_rows(transfer: Mapping[str, Any]) -> list[Row]:
    """Accuracy on clean pictures and under each group at its own size, a figure per column."""
    baselines = transfer["baselines"].values()
    clean = [one["clean_accuracy"] for one in baselines]
    rows: list[Row] = [("clean pictures", [*clean, transfer["clean"]["guarded_clean_accuracy"]])]
    for row in _own_size(transfer):
        figures = [one["accuracy"][row["name"]] for one in baselines]
        rows.append((row["name"], [*figures, row["guarded_perturbed_accuracy"]]))
    return rows


def alarm_rows(transfer: Mapping[str, Any]) -> list[Row]:
    """A row per harmless change of clean pictures, with the figures of `ALARM_COLUMNS`."""
    return [
        (name, [part[key] for key, _ in ALARM_COLUMNS])
        for name, part in transfer["false_alarms"].items()
    ]


def print_transfer(transfer: Mapping[str, Any]) -> None:
    """Print the three tables, each with its threat model below it."""
    threat, count = transfer["threat_model"], transfer["setting"]["test_pictures"]
    ball = console.ball_text(threat["norm"], threat["epsilon"])
    summary = transfer["summary"]
    note = f"{ball}; {threat['knows']}; {threat['larger']}; {threat['elsewhere']}."
    if summary["groups"]:
        note += (
            f" Not fitted on ({summary['groups']} groups): guarded / clean accuracy "
            f"{100 * summary['mean_relative_accuracy']:.2f} % on average, "
            f"{100 * summary['least_relative_accuracy']:.2f} % at least."
        )
    _print(
        f"Perturbations that do not know the guard, % of {count} pictures",
        "perturbation",
        [text for _, text in ROW_COLUMNS],
        perturbation_rows(transfer),
        note,
    )
    _print(
        f"Baselines, accuracy in % of {count} pictures",
        "perturbation",
        baseline_names(transfer),
        baseline_rows(transfer),
        f"{ball}; {threat['knows']}; {threat['baselines']}.",
    )
    _print(
        f"False alarms, % of {count} pictures",
        "clean pictures after",
        [text for _, text in ALARM_COLUMNS],
        alarm_rows(transfer),
        f"{threat['false_alarms']}.",
    )


def _print(title: str, first: str, columns: list[str], rows: list[Row], note: str) -> None:
    console.print_table(
        title,
        (first, *columns),
        [(name, *(percent(figure) for figure in figures)) for name, figures in rows],
        note=note,
    )


def _own_size(transfer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (row for row in transfer["perturbations"].values() if row["factor"] == 1)


def _described(row: Mapping[str, Any], threat: Mapping[str, Any]) -> str:
    """Name, factor, family and whether the guard was fitted on it; the size where files set it."""
    parts = [row["name"] + (f" x {row['factor']:g}" if row["factor"] != 1 else "")]
    if row["trained_family"] is None:
        own = "made elsewhere" if row["norm"] == threat["norm"] else f"made for {row['norm']}"
        parts.append(f"{own}: linf {255 * row['linf']:.3g}/255, l2 {row['l2']:.3g}")
    else:
        fitted = "fitted on" if row["trained_family"] else "held out"
        parts.append(f"family {row['family']}, {fitted}")
    if row["perturbations"] > 1:
        parts.append(f"mean of {row['perturbations']}")
    return "; ".join(parts)
