"""The evaluation as one table in the terminal."""

from collections.abc import Mapping
from typing import Any, Final

from prn_guard import console

Row = tuple[str, str, str, str]

APART: Final = (
    ("clean_accuracy", "clean accuracy, bare target"),
    ("guarded_clean_accuracy", "clean accuracy, guarded"),
    ("undefended_perturbed_accuracy", "perturbed-only accuracy, bare target"),
    ("guarded_perturbed_accuracy", "perturbed-only accuracy, guarded"),
    ("adaptive_accuracy", "accuracy under the adaptive attacker, guarded"),
    ("false_positive_rate", "false-positive rate"),
)
MIXED: Final = (
    ("prn_gain", "PRN-gain"),
    ("prn_restoration", "PRN-restoration"),
    ("detection_rate", "detection rate"),
    ("defense_rate", "defense rate"),
    ("undefended_rate", "the same without a guard"),
)


def percent(figure: Mapping[str, Any]) -> str:
    """A figure's value in percent."""
    return f"{100 * figure['value']:.2f}"


def interval(figure: Mapping[str, Any]) -> str:
    """A figure's confidence interval in percent."""
    return f"{100 * figure['low']:.2f} to {100 * figure['high']:.2f}"


def groups_of(metrics: Mapping[str, Any]) -> list[tuple[str, list[Row]]]:
    """Groups `(title, rows)` of rows `(figure, %, interval, n)`.

    What the 50/50 mix hides comes first, then the protocols, then perturbations made elsewhere.
    """
    groups = [("Clean and perturbed apart", [_row(text, metrics[key]) for key, text in APART])]
    for name in ("A", "B"):
        measured = metrics[f"protocol_{name.lower()}"]
        rows = [_row(f"{text}, protocol {name}", measured[key]) for key, text in MIXED]
        groups.append((f"Protocol {name}: half clean, half perturbed", rows))
    elsewhere = [
        _row(
            f"guarded, {one['file']} #{one['number']} (linf {one['linf'] * 255:.3g}/255)",
            one["guarded_perturbed_accuracy"],
        )
        for one in metrics["elsewhere"]
    ]
    return groups + ([("Perturbations made elsewhere", elsewhere)] if elsewhere else [])


def rows_of(metrics: Mapping[str, Any]) -> list[Row]:
    """The rows of all groups of `groups_of`, in order."""
    return [row for _, rows in groups_of(metrics) for row in rows]


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """Print the table, with the threat model below it."""
    threat = metrics["threat_model"]
    console.print_table(
        "Evaluation",
        ("figure", "%", "95 % interval", "n"),
        rows_of(metrics),
        note=f"{console.ball_text(threat['norm'], threat['epsilon'])}. Held-out: "
        f"{threat['held_out']}. Adaptive: {threat['adaptive']}.",
    )


def _row(text: str, figure: Mapping[str, Any]) -> Row:
    return text, percent(figure), interval(figure), str(figure["n"])
