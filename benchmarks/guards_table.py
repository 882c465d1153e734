"""The tables of docs/results.md, from result files of guards.

A row is a kind of guard; its seeds' figures stand one after the other. Intervals are of 95 % and
hold the sampling of test pictures alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from benchmarks.publishing import table
from prn_guard.errors import DataError

Guard = Mapping[str, Any]
Figure = Mapping[str, Any]
ACCURACY: Final = "guarded_perturbed_accuracy"


def render(result: Mapping[str, Any]) -> str:
    """All tables as markdown.

    Raises:
        DataError: the seeds of a kind of guard were measured with other attacks or pictures.
    """
    guards = _by_row(result["guards"])
    parts = (_headline, _adaptive, _each, _strength, _transfer, _baselines, _false_alarms, _note)
    return "\n".join([*(part(guards) for part in parts), _setting(result)])


def _by_row(guards: Mapping[str, Guard]) -> dict[str, list[Guard]]:
    rows: dict[str, list[Guard]] = {}
    for one in guards.values():
        rows.setdefault(one["row"], []).append(one)
    return rows


def percent(figure: Figure) -> str:
    """A figure in per cent, with its interval."""
    value, low, high = (100 * float(figure[key]) for key in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f}-{high:.1f})"


def _cell(found: Sequence[Figure]) -> str:
    return " / ".join(percent(one) for one in found)


def ball_text(norm: str, epsilon: float) -> str:
    """A ball in a few characters; linf on the 0-255 scale."""
    return f"linf {255 * epsilon:g}/255" if norm == "linf" else f"l2 {epsilon:.3g}"


def _ball(guard: Guard) -> str:
    threat = guard["transfer"]["threat_model"]
    return ball_text(threat["norm"], threat["epsilon"])


def _headline(guards: Mapping[str, list[Guard]]) -> str:
    figures: dict[str, Callable[[Guard], Figure]] = {
        "clean, bare": lambda one: one["apart"]["clean_accuracy"],
        "clean, guarded": lambda one: one["apart"]["guarded_clean_accuracy"],
        "false positives": lambda one: one["apart"]["false_positive_rate"],
        "perturbed, bare": lambda one: one["apart"]["undefended_perturbed_accuracy"],
        "perturbed, guarded": lambda one: one["apart"][ACCURACY],
        "flagged": lambda one: one["apart"]["perturbed_flagged_rate"],
        "detection A": lambda one: one["protocol_a"]["detection_rate"],
        "defense A": lambda one: one["protocol_a"]["defense_rate"],
        "defense B": lambda one: one["protocol_b"]["defense_rate"],
        "no guard, A": lambda one: one["protocol_a"]["undefended_rate"],
    }
    rows = [
        [name, _ball(some[0]), *(_cell([value(one) for one in some]) for value in figures.values())]
        for name, some in guards.items()
    ]
    return (
        "**Held-out perturbations of the bank.** The attacker knows the target, and neither "
        "rectifier nor detector. Columns A and B are of the 50/50 mix.\n\n"
        + table(["guard", "ball", *figures], rows, left=2)
    )


def _adaptive(guards: Mapping[str, list[Guard]]) -> str:
    rows = []
    for name, some in guards.items():
        for found in _studies(name, some):
            worst = [one["worst"] for one in found]
            threat, request = found[0]["threat_model"], found[0]["request"]
            rows.append(
                [
                    name,
                    ball_text(threat["norm"], threat["epsilon"]),
                    _cell([one[ACCURACY] for one in worst]),
                    " / ".join(one["attack"] for one in worst),
                    _cell([one["perturbed_flagged_rate"] for one in worst]),
                    _cell([one["rectified_perturbed_accuracy"] for one in worst]),
                    str(len(found[0]["attacks"])),
                    str(request["steps"]),
                    str(worst[0][ACCURACY]["n"]),
                ]
            )
    columns = ["guard", "ball", "accuracy under the worst", "which", "flagged"]
    return (
        "**The attacker knows everything**: target, rectifier, detector and threshold, and crafts "
        "through them. The worst of those attacks and of the held-out perturbations (and of "
        "transfer and black-box attacks, where a table below names them).\n\n"
        + table([*columns, "if always rectified", "attacks", "steps", "n"], rows, left=2)
    )


def _studies(name: str, some: Sequence[Guard]) -> list[list[Mapping[str, Any]]]:
    """The informed studies of all seeds, by radius.

    Raises:
        DataError: they differ in what was tried.
    """
    by_radius: dict[float, list[Mapping[str, Any]]] = {}
    for one in some:
        for study in one["informed"]:
            by_radius.setdefault(study["threat_model"]["epsilon"], []).append(study)
    for epsilon, found in by_radius.items():
        tried = {
            (one["request"]["steps"], one["worst"][ACCURACY]["n"], *sorted(one["attacks"]))
            for one in found
        }
        if len(tried) > 1:
            raise DataError(
                f"The guards {name!r} were attacked at {epsilon:.4g} with {len(tried)} different "
                "sets of attacks, steps or pictures; expected one. Measure their seeds alike."
            )
    return list(by_radius.values())


def _each(guards: Mapping[str, list[Guard]]) -> str:
    rows = []
    for name, some in guards.items():
        for found in _studies(name, some):
            threat = found[0]["threat_model"]
            for attack in found[0]["attacks"]:
                made = [one["attacks"][attack] for one in found]
                course = (
                    f"{look['step']}: {100 * look['guarded_accuracy']:.0f}"
                    for look in made[0].get("curve", ())
                )
                rows.append(
                    [
                        name,
                        ball_text(threat["norm"], threat["epsilon"]),
                        attack,
                        _cell([one[ACCURACY] for one in made]),
                        _cell([one["perturbed_flagged_rate"] for one in made]),
                        ", ".join(course),
                    ]
                )
    columns = ["guard", "ball", "attack", "accuracy", "flagged"]
    return (
        "**Each of these attacks**, and its course: the accuracy after so many steps on pictures "
        "of the attacker's own. The attacker keeps the step that did most harm.\n\n"
        + table([*columns, "after so many steps, seed 0"], rows, left=3)
    )


def _strength(guards: Mapping[str, list[Guard]]) -> str:
    rows = []
    for name, some in guards.items():
        for one in (study for guard in some for study in guard["informed"]):
            if "accuracy_against_steps" not in one:
                continue
            attack = one["strongest_ascent"]
            steps = one["accuracy_against_steps"][attack]["rows"]
            radii = one["fooling_against_epsilon"][attack]["rows"]
            norm, verdict = one["threat_model"]["norm"], one["masking"]["verdict"]
            rows.append(
                [
                    name,
                    attack,
                    ", ".join(
                        f"{row['steps']}: {100 * row[ACCURACY]['value']:.1f}" for row in steps
                    ),
                    ", ".join(
                        f"{ball_text(norm, row['epsilon'])}: {100 * row['adaptive']['value']:.0f}"
                        for row in radii
                    ),
                    *(
                        f"{100 * verdict[kind]['value']:.1f}"
                        for kind in ("white_box", "transfer", "black_box")
                    ),
                    "yes" if verdict["ordered"] else "NO",
                ]
            )
    if not rows:
        return ""
    columns = ["guard", "strongest attack", "accuracy by steps", "fooling rate by radius"]
    return (
        "**How strong these attacks are**: what fewer steps and larger radii do, and the accuracy "
        "left by the strongest white-box, transfer and black-box attack, which must rise in this "
        "order.\n\n" + table([*columns, "white", "transfer", "black", "in order"], rows, left=2)
    )


def _transfer(guards: Mapping[str, list[Guard]]) -> str:
    rows = []
    for name, some in guards.items():
        for key, row in some[0]["transfer"]["perturbations"].items():
            if row["factor"] != 1:
                continue
            found = [one["transfer"]["perturbations"][key] for one in some]
            larger = [
                [one["transfer"]["perturbations"][f"{row['name']} x {factor:g}"] for one in some]
                for factor in (1.5, 2)
            ]
            rows.append(
                [
                    name,
                    f"{row['name']}, {row['norm']}",
                    {True: "yes", False: "no", None: "unknown"}[row["trained_family"]],
                    _cell([one["undefended_perturbed_accuracy"] for one in found]),
                    _cell([one[ACCURACY] for one in found]),
                    _cell([one["perturbed_flagged_rate"] for one in found]),
                    _cell([one["relative_accuracy"] for one in found]),
                    *(
                        " / ".join(f"{100 * one[ACCURACY]['value']:.1f}" for one in some_larger)
                        for some_larger in larger
                    ),
                ]
            )
    columns = ["guard", "perturbations", "family seen", "bare", "guarded", "flagged"]
    return (
        "**Families held out, and perturbations of others.** Crafted on the bare target; the last "
        "two columns are the guarded accuracy at 1.5 and 2 times the size.\n\n"
        + table([*columns, "guarded over clean", "x 1.5", "x 2"], rows, left=3)
        + "".join(_summary(name, some) for name, some in guards.items())
    )


def _summary(name: str, some: Sequence[Guard]) -> str:
    found = [one["transfer"]["summary"] for one in some]
    mean, least = (
        " / ".join(f"{100 * one[key]:.1f}" for one in found)
        for key in ("mean_relative_accuracy", "least_relative_accuracy")
    )
    return (
        f"\n{name}: over the {found[0]['groups']} families and files that it was not fitted on, "
        f"guarded accuracy is {mean} % of clean accuracy on average, {least} % for the worst "
        "single perturbation.\n"
    )


def _baselines(guards: Mapping[str, list[Guard]]) -> str:
    name, some = next(iter(guards.items()))
    found, names = (
        some[0]["transfer"],
        list(some[0]["transfer"]["baselines"]["no defense"]["accuracy"]),
    )
    rows = [
        [key, percent(one["clean_accuracy"]), *(percent(one["accuracy"][of]) for of in names)]
        for key, one in found["baselines"].items()
    ]
    guarded = (found["perturbations"][f"{of} x 1"][ACCURACY] for of in names)
    clean = found["clean"]["guarded_clean_accuracy"]
    rows.append([f"the guard ({name})", percent(clean), *map(percent, guarded)])
    return (
        "**Baselines**: simple transforms before the bare target, on the same pictures and "
        "perturbations.\n\n" + table(["defense", "clean", *names], rows, left=1)
    )


def _false_alarms(guards: Mapping[str, list[Guard]]) -> str:
    rows = []
    for name, some in guards.items():
        for key in some[0]["transfer"]["false_alarms"]:
            found = [one["transfer"]["false_alarms"][key] for one in some]
            rows.append(
                [
                    name,
                    key,
                    *(
                        _cell([one[figure] for one in found])
                        for figure in (
                            "false_positive_rate", "clean_accuracy", "guarded_clean_accuracy"
                        )
                    ),
                ]
            )  # fmt: skip
    return "**False alarms**: clean pictures, changed harmlessly.\n\n" + table(
        ["guard", "change", "flagged", "accuracy, bare", "accuracy, guarded"], rows, left=2
    )


def _note(guards: Mapping[str, list[Guard]]) -> str:
    parts = []
    for name, some in guards.items():
        minutes = " / ".join(f"{one['seconds']['rectifier'] / 60:.0f}" for one in some)
        parts.append(
            f"{name}: {some[0]['apart']['clean_accuracy']['n']} test pictures; rectifier and "
            f"detector trained in {minutes} minutes (of the last start, where a fit was resumed), "
            f"{' / '.join(str(len({row['round'] for row in one['rounds']})) for one in some)} "
            f"rounds; fitted by commit {', '.join(sorted({one['commit'] for one in some}))}."
        )
    return "\n".join(parts)


def _setting(result: Mapping[str, Any]) -> str:
    return (
        "\nAll figures in per cent, in brackets the 95 % interval over test pictures. Seeds of a "
        "guard share the bank and the attackers' draws; splits, weights and mini-batches are their "
        f"own. {result['hardware']}, {result['threads']} threads of torch "
        f"{result['versions']['torch']}.\n"
    )
