"""Compared networks as tables in the terminal."""

from collections.abc import Mapping
from typing import Any

from prn_guard import console

NOT_MEASURED = "-"


def robustness_rows(content: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Per network: name, test error, UER and mean TSR at epsilon, epsilon_uni, rho_adv."""
    return [
        (
            name,
            _share(measured.get("accuracy"), "test_error"),
            _share(_at(measured, "evasion", content["epsilon"]), "uer"),
            _over_classes(_at(measured, "targeted", content["epsilon"])),
            _radius(measured.get("universal-robustness")),
            _number(measured.get("rho-adv"), "rho_adv"),
        )
        for name, measured in content["networks"].items()
    ]


def jacobian_rows(content: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Per network measured: its name, mean norms, both norms of the stack, median similarity."""
    return [
        (
            name,
            _number(part, "norm"),
            _number(part, "deepfool_norm"),
            f"{part['stacked_norm']:.4g}",
            f"{part['stacked_bound']:.4g}",
            NOT_MEASURED if part["similarity"] is None else f"{part['similarity']['median']:.3f}",
        )
        for name, measured in content["networks"].items()
        if (part := measured.get("jacobian")) is not None
    ]


def print_comparison(content: Mapping[str, Any]) -> None:
    """Print what was measured, with the threat model below it."""
    request, networks = content["request"], content["networks"].values()
    ball = console.ball_text(request["norm"], content["epsilon"])
    judged = {part["accuracy"]["clean_accuracy"]["n"] for part in networks if "accuracy" in part}
    n = f" n = {judged.pop()}." if judged else ""
    console.print_table(
        "Networks under universal perturbations",
        (
            "network", "test error, %", "UER, %", "mean TSR, %",
            f"epsilon_uni({request['rate']:g})", "rho_adv",
        ),
        robustness_rows(content),
        note=f"{ball}; the attacker knows the network: {request['attack']}.{n} In brackets 95 % "
        "intervals; of TSR the standard deviation over classes. epsilon_uni is an upper bound, by "
        "an attack of its own, longer than that of UER and TSR.",
    )  # fmt: skip
    rows = jacobian_rows(content)
    if rows:
        console.print_table(
            "Jacobians of the logits",
            (
                "network", "mean norm", "after DeepFool", "stacked norm", "sum of norms",
                "median similarity",
            ),
            rows,
            note=f"Jacobians and rho_adv are of {request['pictures for Jacobians and rho_adv']} "
            "pictures, or all if there are fewer.",
        )  # fmt: skip


def _at(measured: Mapping[str, Any], part: str, epsilon: float) -> Any:
    return measured.get(part, {}).get(repr(epsilon))


def _share(part: Mapping[str, Any] | None, name: str) -> str:
    if part is None:
        return NOT_MEASURED
    figure = part[name]
    # Without a space inside: a narrow terminal breaks before the bracket only.
    return f"{100 * figure['value']:.1f} [{100 * figure['low']:.1f}-{100 * figure['high']:.1f}]"


def _over_classes(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return NOT_MEASURED
    return f"{100 * point['mean']:.2f} ± {100 * point['standard_deviation']:.2f}"


def _radius(part: Mapping[str, Any] | None) -> str:
    if part is None:
        return NOT_MEASURED
    if part["epsilon"] is None:
        return f"above {part['not_reached']:.4g}"
    return f"<= {part['epsilon']:.4g}"


def _number(part: Mapping[str, Any] | None, name: str) -> str:
    figure = None if part is None else part[name]
    if figure is None:
        return NOT_MEASURED
    return f"{figure['value']:.3g} [{figure['low']:.3g}-{figure['high']:.3g}]"
