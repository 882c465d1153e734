"""Command that measures a guard against what was not aimed at it: transfer."""

from pathlib import Path
from typing import Annotated

import typer

from prn_guard import console
from training.cli import options
from training.cli.loading import Reading, device_named, unbundled


def add_to(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(unbundled(transfer))


def transfer(
    reading: Reading,
    folder: Annotated[Path, typer.Argument(metavar="GUARD", help="What `fit` wrote.")],
    images: options.ImagesOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the result files.")],
    families: Annotated[
        str | None,
        typer.Option(
            help="METHOD[:LOSS][@STEPS],...: attacks to craft by; one of each family without it."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Perturbations of each family.")] = 1,
    perturbations: Annotated[
        list[Path] | None,
        typer.Option(
            "--perturbations",
            help="File of perturbations made elsewhere, as on another network; may be repeated.",
        ),
    ] = None,
    other_norm: options.OtherNormOption = None,
    crafting_images: Annotated[
        str | None, typer.Option(help="Pictures to craft on; the guard's training pictures.")
    ] = None,
    limit: options.LimitOption = None,
    data_folder: options.DataFolderOption = None,
    device: options.DeviceOption = "cpu",
    seed: console.SeedOption = 0,
    json_file: console.JsonOption = None,
) -> None:
    """Measure a guard on other families, baselines beside it, and its false alarms. Resumes."""
    from training.evaluation.families import ENTRIES, parse_families
    from training.evaluation.transfer import TRANSFER
    from training.evaluation.transfer_command import transfer as measure
    from training.evaluation.transfer_tables import print_transfer

    result = measure(
        folder,
        images,
        out,
        families=ENTRIES if families is None else parse_families(families),
        repeats=repeats,
        files=perturbations or [],
        other_norm=other_norm or [],
        read=reading.perturbations,
        crafting_images=crafting_images,
        limit=limit,
        data_folder=data_folder,
        device=device_named(device),
        seed=seed,
    )
    print_transfer(result)
    console.say(f"Results: {out / TRANSFER}")
    console.write_result(json_file, result)
