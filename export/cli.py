"""`python -m export`: from a guard folder to the graph that is deployed.

torch, onnx and onnxruntime are imported inside the commands, so that `--help` is instant.
"""

from pathlib import Path
from typing import Annotated

import typer

from prn_guard import console

app = console.new_app("python -m export", "Turn a fitted guard into one graph with a manifest.")


def main() -> None:
    """Entry point of `python -m export`."""
    console.run(app)


@app.callback()
def common() -> None:
    """Turn a fitted guard into one graph with a manifest."""


@app.command()
def guard(
    folder: Annotated[Path, typer.Argument(metavar="GUARD", help="What `fit` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="The artifact folder to write.")],
    images: Annotated[
        str | None,
        typer.Option("--images", help="Pictures for the parity check; the fit's test pictures."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Compare on this many pictures only.")
    ] = None,
    data_folder: Annotated[
        Path | None, typer.Option("--data-folder", help="Where to look for Fashion-MNIST first.")
    ] = None,
    json_file: console.JsonOption = None,
) -> None:
    """Export a guard as guarded.onnx and manifest.json, after a parity check."""
    from export.bundle import export_guard

    manifest = export_guard(folder, out, images=images, limit=limit, data_folder=data_folder)
    parity, entry = manifest.parity, manifest.files[0]
    console.print_table(
        "Guarded graph",
        ("what", "value"),
        [
            ("graph", f"{out / entry.name}, {entry.size_bytes:,} bytes, opset {manifest.opset}"),
            ("sha256", entry.sha256),
            ("outputs", ", ".join(manifest.outputs)),
            ("parity, pictures compared", f"{parity.pictures:,}"),
            ("labels / flags that differ", f"{parity.label_mismatches} / {parity.flag_mismatches}"),
            ("inside the margin band", f"{parity.inside_margin / parity.pictures:.3%}"),
            (
                "largest difference, logits / score",
                f"{parity.max_logit_difference:.2g} / {parity.max_score_difference:.2g}",
            ),
            ("unflagged logits bit-equal to bare", "yes" if parity.unflagged_bit_equal else "NO"),
        ],
    )
    console.write_result(json_file, manifest.model_dump(mode="json"))


@app.command()
def triton(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="What `guard` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="The model repository to write into.")],
    name: Annotated[str, typer.Option("--name", help="Of the model and its service.")] = "guarded",
    version: Annotated[int, typer.Option("--version", help="Written once, never replaced.")] = 1,
    max_batch_size: Annotated[
        int, typer.Option("--max-batch-size", help="Pictures in one run, and in one request.")
    ] = 64,
    preferred_batch_sizes: Annotated[
        str | None,
        typer.Option("--preferred-batch-sizes", help="Run at once when so many wait: 8,32."),
    ] = None,
    max_queue_delay_us: Annotated[
        int, typer.Option("--max-queue-delay-us", help="Longest wait for others, microseconds.")
    ] = 1000,
    device: Annotated[str, typer.Option("--device", help="gpu or cpu.")] = "gpu",
    instances: Annotated[
        int, typer.Option("--instances", help="Copies on each GPU, or on the CPU.")
    ] = 1,
    gpus: Annotated[
        str | None, typer.Option("--gpus", help="Numbers of GPUs, as 0,1; all that Triton sees.")
    ] = None,
    warm_up: Annotated[
        bool, typer.Option("--warm-up/--no-warm-up", help="Run once before counting as ready.")
    ] = True,
    storage_uri: Annotated[
        str | None,
        typer.Option("--storage-uri", help="Where it will lie; writes an InferenceService."),
    ] = None,
    triton_release: Annotated[
        str | None, typer.Option("--triton-release", help="Image tag for it, 24.07 or later.")
    ] = None,
    json_file: console.JsonOption = None,
) -> None:
    """Write an artifact into a model repository for Triton, and a KServe InferenceService."""
    from export.kserve import TRITON_RELEASE
    from export.triton import write_repository
    from export.triton_config import Settings, as_numbers

    settings = Settings(
        name=name,
        version=version,
        max_batch_size=max_batch_size,
        preferred_batch_sizes=as_numbers("--preferred-batch-sizes", preferred_batch_sizes),
        max_queue_delay_us=max_queue_delay_us,
        device=device,  # type: ignore[arg-type]  # checked there
        instances=instances,
        gpus=as_numbers("--gpus", gpus) or (),
        warm_up=warm_up,
    )
    written = write_repository(
        artifact,
        out,
        settings,
        storage_uri=storage_uri,
        triton_release=triton_release or TRITON_RELEASE,
    )
    console.print_table("Triton model repository", ("what", "value"), written.rows())
    console.write_result(json_file, written.record())
