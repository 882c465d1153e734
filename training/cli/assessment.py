"""Command that measures a guard in every way there is, and reports: assess."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from prn_guard import console
from training.cli import options
from training.cli.audits import print_informed
from training.cli.loading import Reading, device_named, unbundled


def add_to(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(unbundled(assess))


def assess(
    reading: Reading,
    folder: Annotated[Path, typer.Argument(metavar="GUARD", help="What `fit` wrote.")],
    images: options.ImagesOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for result files and report.")],
    perturbations: Annotated[
        list[Path] | None,
        typer.Option(
            "--perturbations", help="File of perturbations made elsewhere; may be repeated."
        ),
    ] = None,
    other_norm: Annotated[
        list[Path] | None,
        typer.Option(
            "--other-norm",
            help="File of perturbations bounded in the norm that is not the guard's; may be "
            "repeated.",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of each attack that knows the guard.")] = 1000,
    precision: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="That attacks differentiate in; guards are judged in float32."),
    ] = "float32",
    crafting_images: Annotated[
        str | None, typer.Option(help="Pictures of the attackers; the guard's training pictures.")
    ] = None,
    limit: options.LimitOption = None,
    data_folder: options.DataFolderOption = None,
    device: options.DeviceOption = "cpu",
    seed: console.SeedOption = 0,
) -> None:
    """Measure a guard in full: evaluate, transfer, attack-guard, report. Resumes; takes hours."""
    from training.evaluation.evaluate import evaluate_guard
    from training.evaluation.informed.command import attack_guard_folder
    from training.evaluation.report import write_report
    from training.evaluation.tables import print_metrics
    from training.evaluation.transfer_command import transfer
    from training.evaluation.transfer_tables import print_transfer

    where = device_named(device)
    files, report = perturbations or [], out / "report.html"
    evaluate_guard(
        folder, images, out, files=files, read=reading.perturbations,
        crafting_images=crafting_images, limit=limit, data_folder=data_folder, seed=seed,
    )  # fmt: skip
    print_transfer(
        transfer(
            folder, images, out, files=files, other_norm=other_norm or [],
            read=reading.perturbations, crafting_images=crafting_images, limit=limit,
            data_folder=data_folder, device=where, seed=seed,
        )
    )  # fmt: skip
    print_informed(
        attack_guard_folder(
            folder, images, out, steps=steps, precision=precision,
            crafting_images=crafting_images, limit=limit, data_folder=data_folder, device=where,
            seed=seed,
        )
    )  # fmt: skip
    print_metrics(write_report(folder, out, report))
    console.say(f"Results: {out}\nReport: {report.resolve()}")
