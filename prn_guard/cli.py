"""`prn-guard`: look at an exported guard and classify pictures with it.

NumPy, pydantic and onnxruntime are imported inside the commands, so that `--help` is instant.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from prn_guard import console, serve_command
from prn_guard.errors import InvalidArgumentError
from prn_guard.version import __version__

if TYPE_CHECKING:
    from prn_guard.bench import Measured
    from prn_guard.guard import Guard

BATCH_SIZE = 64
LARGEST_BENCH = 4096

app = console.new_app("prn-guard", "Look at an exported guard, and classify pictures with it.")

FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="What `python -m export` wrote.")
]


def main() -> None:
    """Entry point of the `prn-guard` command."""
    console.run(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.say(f"prn-guard {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Look at an exported guard, and classify pictures with it."""


@app.command()
def inspect(
    folder: FolderArgument,
    json_file: console.JsonOption = None,
    public_key: console.KeyOption = None,
) -> None:
    """Verify and load an exported guard; print its manifest."""
    from prn_guard.description import describe
    from prn_guard.session import open_session

    manifest, _ = open_session(folder, public_key=public_key)
    signature = "valid" if public_key else "not checked: no --public-key was given"
    facts = [*describe(manifest), ("signature", signature)]
    console.print_table("Guard", ("what", "value"), facts)
    console.print_table(
        "Files",
        ("file", "bytes", "sha256", "verified"),
        [(entry.name, str(entry.size_bytes), entry.sha256, "yes") for entry in manifest.files],
    )
    console.write_result(
        json_file,
        {
            "folder": str(folder),
            "files_verified": True,
            "signature_verified": public_key is not None,
            "manifest": manifest.model_dump(mode="json"),
        },
    )


@app.command()
def predict(
    folder: FolderArgument,
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE", help="JPEG or PNG files.")],
    json_file: console.JsonOption = None,
    resize: Annotated[
        bool,
        typer.Option("--resize", help="Scale as the training pictures were, and crop the centre."),
    ] = False,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="What runs the graph; cuda never becomes cpu.")
    ] = "cpu",
    public_key: console.KeyOption = None,
) -> None:
    """Classify pictures and say which of them look perturbed."""
    from prn_guard.guard import Guard

    guard = Guard(folder, device=device, public_key=public_key)
    threshold = guard.manifest.detection.threshold
    results = list(_classify_files(guard, pictures, resize=resize))
    common = os.path.commonpath([picture.absolute().parent for picture in pictures])
    console.print_table(
        f"Verdicts on pictures in {os.path.relpath(common)}",
        ("file", "label", "probability", "score", "threshold", "flagged"),
        [
            (
                os.path.relpath(result["file"], common),
                f"{result['label']} {result['class_name']}",
                f"{result['probability']:.4f}",
                f"{result['score']:.4f}",
                f"{threshold:.4f}",
                "FLAGGED" if result["flagged"] else "no",
            )
            for result in results
        ],
    )
    console.write_result(
        json_file,
        {
            "folder": str(folder),
            "provider": guard.provider,
            "threshold": threshold,
            "pictures": results,
        },
    )


@app.command()
def bench(
    folder: FolderArgument,
    bare: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The ONNX file that was wrapped.")
    ] = None,
    batch_sizes: Annotated[str, typer.Option(help="Pictures in a batch.")] = "1,8,32",
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="What runs both graphs.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each graph; all cores if left out.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Least time a batch size.")] = 3.0,
    seed: console.SeedOption = 0,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw to .svg, .png or .pdf.")
    ] = None,
    json_file: console.JsonOption = None,
    public_key: console.KeyOption = None,
) -> None:
    """Time the guarded graph against the bare classifier, in turn, over batch sizes."""
    from prn_guard import bench_report
    from prn_guard.bench import measure
    from prn_guard.bench_sessions import available_cores, facts, open_both, runs_of

    sizes = _parse_sizes(batch_sizes)
    if plot_file is not None:
        bench_report.check_plot(plot_file)
    count = threads or available_cores()
    both = open_both(folder, bare=bare, device=device, threads=count, public_key=public_key)
    runs = runs_of(both, sizes, seed=seed)
    known = facts(both, device=device, threads=count)
    with console.progress() as progress:
        task = progress.add_task("Batch sizes", total=len(sizes), status="")
        results = measure(
            *runs, sizes, least_seconds=seconds, on_measured=lambda _: progress.advance(task)
        )
    _report_bench(results, known)
    if plot_file is not None:
        bench_report.plot(plot_file, results, known)
    console.write_result(
        json_file,
        {
            "folder": str(folder),
            "facts": known,
            "seed": seed,
            "copies_counted": device == "cuda",
            "results": [result.to_json() for result in results],
        },
    )


serve_command.add_to(app)


def _report_bench(results: "list[Measured]", known: dict[str, Any]) -> None:
    from prn_guard import bench_report

    note = ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)
    copies = " Copies to and from the GPU are counted." if known["device"] == "cuda" else ""
    console.print_table(
        "Latency and throughput",
        bench_report.COLUMNS,
        bench_report.rows(results),
        note=f"{note}.{copies}{_bare_note(known)}",
    )
    for line in bench_report.bars(results):
        console.say(line)


def _bare_note(known: dict[str, Any]) -> str:
    """What a reader of the ratio must know of the file that it is measured against."""
    note = ""
    if known["bare_precision"] != known["precision"]:
        note += (
            f" The guard is {known['precision']}, the bare classifier {known['bare_precision']}: "
            "the ratio holds that difference too."
        )
    if not known["bare_verified"]:
        note += (
            " The manifest has no digest of the bare classifier: only its number of classes was "
            "compared."
        )
    return note


def _parse_sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = [0]
    if sizes[0] < 1 or sizes[-1] > LARGEST_BENCH:
        raise InvalidArgumentError(
            f"--batch-sizes is {text!r}; expected whole numbers from 1 to {LARGEST_BENCH}, as "
            "1,8,32."
        )
    return sizes


def _classify_files(
    guard: "Guard", pictures: list[Path], *, resize: bool
) -> Iterator[dict[str, Any]]:
    """One JSON-ready row a picture; only one batch of decoded pictures is held at a time."""
    import numpy as np

    from prn_guard.images import read_picture

    names, spec = guard.manifest.class_names, guard.manifest.input
    shorter = guard.manifest.resize
    for start in range(0, len(pictures), BATCH_SIZE):
        paths = pictures[start : start + BATCH_SIZE]
        batch = np.stack(
            [read_picture(path, spec, resize=resize, shorter=shorter) for path in paths]
        )
        verdict = guard.classify(batch, batch_size=BATCH_SIZE)
        probabilities = verdict.probabilities
        for row, path in enumerate(paths):
            label = int(verdict.label[row])
            yield {
                "file": str(path),
                "label": label,
                "class_name": names[label],
                "probability": float(probabilities[row, label]),
                "score": float(verdict.score[row]),
                "flagged": bool(verdict.flagged[row]),
            }
