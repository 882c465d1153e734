"""The tables of docs/results.md, from result files of guards."""

from collections.abc import Callable, Mapping
from statistics import mean
from typing import Any, Final

from benchmarks.publishing import table

Guard = Mapping[str, Any]
ACCURACY: Final = "guarded_perturbed_accuracy"


def render(result: Mapping[str, Any]) -> str:
    """All tables as markdown, a row per kind of guard, both seeds in each cell."""
    guards = _by_row(result["guards"])
    return "\n".join(
        [
            _headline(guards),
            _adaptive(guards),
            _transfer(guards),
            _note(result),
        ]
    )


def _by_row(guards: Mapping[str, Guard]) -> dict[str, list[Guard]]:
    rows: dict[str, list[Guard]] = {}
    for one in guards.values():
        rows.setdefault(one["row"], []).append(one)
    return rows


def _cell(guards: list[Guard], value: Callable[[Guard], float]) -> str:
    return " / ".join(f"{100 * value(one):.1f}" for one in guards)


def _headline(guards: Mapping[str, list[Guard]]) -> str:
    figures: dict[str, Callable[[Guard], float]] = {
        "clean, bare": lambda one: one["apart"]["clean_accuracy"]["value"],
        "clean, guarded": lambda one: one["apart"]["guarded_clean_accuracy"]["value"],
        "false positives": lambda one: one["apart"]["false_positive_rate"]["value"],
        "perturbed, bare": lambda one: one["apart"]["undefended_perturbed_accuracy"]["value"],
        "perturbed, guarded": lambda one: one["apart"][ACCURACY]["value"],
        "flagged": lambda one: one["apart"]["perturbed_flagged_rate"]["value"],
        "detection A": lambda one: one["protocol_a"]["detection_rate"]["value"],
        "defense A": lambda one: one["protocol_a"]["defense_rate"]["value"],
        "defense B": lambda one: one["protocol_b"]["defense_rate"]["value"],
        "no guard, A": lambda one: one["protocol_a"]["undefended_rate"]["value"],
    }
    rows = [
        [name, *(_cell(some, value) for value in figures.values())] for name, some in guards.items()
    ]
    return (
        "Held-out perturbations of the bank; the attacker knows the target, not the guard.\n\n"
        + (table(["guard", *figures], rows, left=1))
    )


def _adaptive(guards: Mapping[str, list[Guard]]) -> str:
    rows = []
    for name, some in guards.items():
        for number in range(len(some[0]["informed"])):
            found = [one["informed"][number] for one in some]
            rows.append(
                [
                    name,
                    f"{found[0]['threat_model']['epsilon']:.4g}",
                    " / ".join(f"{100 * one['worst'][ACCURACY]['value']:.1f}" for one in found),
                    " / ".join(one["worst"]["attack"] for one in found),
                    " / ".join(
                        f"{100 * one['worst']['perturbed_flagged_rate']['value']:.1f}"
                        for one in found
                    ),
                    str(len(found[0]["attacks"])),
                    str(found[0]["request"]["steps"]),
                    str(found[0]["worst"][ACCURACY]["n"]),
                ]
            )
    columns = ["guard", "epsilon", "accuracy under the worst", "which", "flagged", "attacks"]
    return (
        "The attacker knows target, rectifier, detector and threshold, and crafts through them.\n\n"
        + table([*columns, "steps", "n"], rows, left=1)
    )


def _transfer(guards: Mapping[str, list[Guard]]) -> str:
    rows = []
    for name, some in guards.items():
        names = [
            key for key, row in some[0]["transfer"]["perturbations"].items() if row["factor"] == 1
        ]
        for key in names:
            found = [one["transfer"]["perturbations"][key] for one in some]
            rows.append(
                [
                    name,
                    found[0]["name"],
                    "yes" if found[0]["trained_family"] else "no",
                    *(
                        " / ".join(f"{100 * row[figure]['value']:.1f}" for row in found)
                        for figure in (
                            "undefended_perturbed_accuracy", ACCURACY, "perturbed_flagged_rate",
                            "relative_accuracy",
                        )
                    ),
                ]
            )  # fmt: skip
    columns = ["guard", "perturbations", "family seen", "bare", "guarded", "flagged"]
    return "Perturbations of other families and of others.\n\n" + table(
        [*columns, "guarded over clean"], rows, left=2
    )


def _note(result: Mapping[str, Any]) -> str:
    some = list(result["guards"].values())
    commits = sorted({one["commit"] for one in some})
    pictures = some[0]["apart"]["clean_accuracy"]["n"]
    minutes = mean(sum(one["seconds"].values()) for one in some) / 60
    return (
        f"Percentages; the seeds' figures one after the other; {pictures} test pictures where n is "
        f"not stated. A fit takes {minutes:.0f} minutes on average without its bank. "
        f"{result['hardware']}, {result['threads']} threads of torch "
        f"{result['versions']['torch']}; guards of commit {', '.join(commits)}.\n"
    )
