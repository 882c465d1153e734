"""Commands that judge a guard by the strongest attacker: attack-guard."""

from pathlib import Path
from typing import Annotated, Any

import typer

from prn_guard import console
from training.cli import options
from training.cli.loading import device_named


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("attack-guard")(attack_guard)


def attack_guard(
    folder: Annotated[Path, typer.Argument(metavar="GUARD", help="What `fit` wrote.")],
    images: options.ImagesOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the result files.")],
    steps: Annotated[int, typer.Option(min=1, help="Gradients per attack.")] = 1000,
    entries: Annotated[
        list[str] | None,
        typer.Option("--entries", help="Attack to make; may be repeated; all without it."),
    ] = None,
    precision: options.AttackPrecisionOption = "float32",
    checks: Annotated[
        bool, typer.Option(help="Masking checks, and curves over steps and epsilon.")
    ] = True,
    crafting_images: Annotated[
        str | None, typer.Option(help="Pictures of the attacker; the guard's training pictures.")
    ] = None,
    limit: options.LimitOption = None,
    data_folder: options.DataFolderOption = None,
    device: options.DeviceOption = "cpu",
    restart: options.RestartOption = False,
    seed: console.SeedOption = 0,
    json_file: console.JsonOption = None,
) -> None:
    """Attack a guard with everything known: the whole suite, and masking checks. Resumes."""
    from training.evaluation.informed.attack import INFORMED
    from training.evaluation.informed.command import attack_guard_folder

    result = attack_guard_folder(
        folder,
        images,
        out,
        steps=steps,
        entries=entries,
        precision=precision,
        checks=checks,
        crafting_images=crafting_images,
        limit=limit,
        data_folder=data_folder,
        device=device_named(device),
        seed=seed,
        restart=restart,
    )
    print_informed(result)
    console.say(f"Results: {out / INFORMED}")
    console.write_result(json_file, result)


def print_informed(result: dict[str, Any]) -> None:
    """Print the table of an attack with everything known, worst first in each group."""
    masking = result.get("masking", {})
    groups = {
        "": result["attacks"],
        "held-out: ": result["held_out"],
        "transfer: ": masking.get("transfer", {}),
        "black box: ": masking.get("black_box", {}),
    }
    rows = []
    for kind, named in groups.items():
        ordered = sorted(
            named.items(), key=lambda one: _value(one[1], "guarded_perturbed_accuracy")
        )
        rows += [_row(f"{kind}{name}", row) for name, row in ordered]
    threat, worst = result["threat_model"], result["worst"]
    ball = console.ball_text(threat["norm"], threat["epsilon"])
    note = f"Threat model: universal, {ball}; {threat['attacks']}; {threat['delivery']}."
    note += f"\nClean: {_clean_text(result['clean'])}. Worst: {worst['attack']}."
    if "verdict" in masking:
        note += f" {_masking_text(masking['verdict'])}"
    columns = ("attack", "guarded", "95 %", "flagged", "rectified", "bare")
    title = "Accuracy under universal perturbations, everything known"
    console.print_table(title, columns, rows, note=note)


def _row(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    guarded = row["guarded_perturbed_accuracy"]
    others = (
        "perturbed_flagged_rate",
        "rectified_perturbed_accuracy",
        "undefended_perturbed_accuracy",
    )
    return (
        name,
        f"{guarded['value']:.1%}",
        f"{guarded['low']:.1%} to {guarded['high']:.1%}",
        *(f"{_value(row, key):.1%}" for key in others),
    )


def _clean_text(clean: dict[str, Any]) -> str:
    guarded, bare = _value(clean, "guarded_clean_accuracy"), _value(clean, "clean_accuracy")
    alarms = _value(clean, "false_positive_rate")
    return f"guarded {guarded:.1%}, bare {bare:.1%}, false alarms {alarms:.1%}"


def _masking_text(verdict: dict[str, Any]) -> str:
    kinds = ("white_box", "transfer", "black_box")
    left = ", ".join(f"{kind.replace('_', ' ')} {_value(verdict, kind):.1%}" for kind in kinds)
    found = "no sign of masked gradients" if verdict["ordered"] else "OUT OF ORDER"
    return f"Masking checks: {left}: {found}."


def _value(row: dict[str, Any], key: str) -> float:
    return float(row[key]["value"])
