"""Command that measures a guard in every way there is, and reports: assess."""

from pathlib import Path
from typing import Annotated

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
    other_norm: options.OtherNormOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Of each attack that knows the guard.")] = 1000,
    precision: options.AttackPrecisionOption = "float32",
    crafting_images: Annotated[
        str | None, typer.Option(help="Pictures of the attackers; the guard's training pictures.")
    ] = None,
    limit: options.LimitOption = None,
    data_folder: options.DataFolderOption = None,
    device: options.DeviceOption = "cpu",
    restart: options.RestartOption = False,
    seed: console.SeedOption = 0,
    json_file: console.JsonOption = None,
) -> None:
    """Measure a guard in full: evaluate, transfer, attack-guard, report. Resumes; takes hours."""
    from training.evaluation.evaluate import evaluate_guard
    from training.evaluation.informed.command import attack_guard_folder, check_attack
    from training.evaluation.report import write_report
    from training.evaluation.tables import print_metrics
    from training.evaluation.transfer_command import transfer
    from training.evaluation.transfer_tables import print_transfer

    where = device_named(device)
    files, report = perturbations or [], out / "report.html"
    # Asked first: the other parts would have replaced their results when it is refused.
    check_attack(
        folder, images, out, steps=steps, precision=precision, crafting_images=crafting_images,
        limit=limit, data_folder=data_folder, seed=seed, restart=restart,
    )  # fmt: skip
    if restart:
        _throw_away(out)
    evaluate_guard(
        folder, images, out, files=files, read=reading.perturbations,
        crafting_images=crafting_images, limit=limit, data_folder=data_folder, device=where,
        seed=seed,
    )  # fmt: skip
    transferred = transfer(
        folder, images, out, files=files, other_norm=other_norm or [], read=reading.perturbations,
        crafting_images=crafting_images, limit=limit, data_folder=data_folder, device=where,
        seed=seed,
    )  # fmt: skip
    print_transfer(transferred)
    informed = attack_guard_folder(
        folder, images, out, steps=steps, precision=precision, crafting_images=crafting_images,
        limit=limit, data_folder=data_folder, device=where, seed=seed,
    )  # fmt: skip
    print_informed(informed)
    metrics = write_report(folder, out, report)
    print_metrics(metrics)
    console.say(f"Results: {out}\nReport: {report.resolve()}")
    console.write_result(
        json_file, {"metrics": metrics, "transfer": transferred, "informed": informed}
    )


def _throw_away(out: Path) -> None:
    """Remove what the parts would go on from; the report is written anew."""
    from training.evaluation.evaluate import ADAPTIVE, METRICS
    from training.evaluation.informed.attack import INFORMED, PERTURBATIONS
    from training.evaluation.transfer import FAMILIES, TRANSFER

    for name in (METRICS, ADAPTIVE, TRANSFER, FAMILIES, INFORMED, PERTURBATIONS):
        (out / name).unlink(missing_ok=True)
