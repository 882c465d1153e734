"""`python -m export`: from a guard folder to the graph that is deployed.

torch, onnx and onnxruntime are imported inside the commands, so that `--help` is instant.
"""

from pathlib import Path
from typing import Annotated, Literal

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
    client_input: Annotated[
        Literal["uint8-nhwc", "same"],
        typer.Option("--input", help="8-bit pixels, or what the classifier itself took (drop-in)."),
    ] = "uint8-nhwc",
    precision: Annotated[
        Literal["fp32", "fp16"],
        typer.Option(help="Of rectifier and classifier; the detector stays in fp32."),
    ] = "fp32",
    with_bare: Annotated[
        bool, typer.Option("--with-bare", help="Also write the classifier alone, for `bench`.")
    ] = False,
    with_rectified: Annotated[
        bool,
        typer.Option("--with-rectified", help="Answer with the rectified picture too, to look at."),
    ] = False,
    allow_cpu_nodes: Annotated[
        bool, typer.Option("--allow-cpu-nodes", help="Export although nodes would leave the GPU.")
    ] = False,
    sign: Annotated[
        Path | None, typer.Option("--sign", metavar="KEY", help="Ed25519 private key, PEM.")
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="What runs the graph for the checks.")
    ] = "cpu",
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
    """Export a guard as guarded.onnx and manifest.json, after checks of placement and parity."""
    from export.pipeline import ExportOptions, export_guard
    from export.tables import manifest_rows

    manifest = export_guard(
        folder,
        out,
        ExportOptions(
            client_input=client_input,
            precision=precision,
            with_bare=with_bare,
            with_rectified=with_rectified,
            allow_cpu_nodes=allow_cpu_nodes,
            private_key=sign,
            device=device,
            images=images,
            limit=limit,
            data_folder=data_folder,
        ),
    )
    console.print_table("Guarded graph", ("what", "value"), manifest_rows(manifest, out))
    console.write_result(json_file, manifest.model_dump(mode="json"))


@app.command()
def check(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="An artifact folder, or any .onnx file.")
    ],
    device: Annotated[
        Literal["table", "cuda"],
        typer.Option("--device", help="'table' needs no GPU; 'cuda' asks a session on one."),
    ] = "table",
    json_file: console.JsonOption = None,
) -> None:
    """Say which nodes of a graph would leave the GPU; exit code 1 when some would."""
    from dataclasses import asdict

    from export.placement import judge

    placement, fallbacks = judge(path, device)
    total, release = placement.nodes, f"onnxruntime {placement.onnxruntime}"
    if fallbacks:
        console.print_table(
            f"{len(fallbacks)} of {total} nodes would run on the CPU under {release}",
            ("node", "operator", "types", "why"),
            [
                (one.node, f"{one.op} {one.since_version or ''}".strip(), one.types, one.reason)
                for one in fallbacks
            ],
            note="What to do about each: docs/check-refuses.md",
        )
    else:
        console.say(f"All {total} nodes have a CUDA kernel of {release} ({placement.basis}).")
    details = {"fallbacks": [asdict(one) for one in fallbacks]}
    console.write_result(json_file, placement.model_dump(mode="json") | details)
    if fallbacks:
        raise typer.Exit(1)


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
    device: Annotated[
        Literal["gpu", "cpu"], typer.Option("--device", help="Where Triton runs it.")
    ] = "gpu",
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
    public_key: console.KeyOption = None,
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
        device=device,
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
        public_key=public_key,
    )
    console.print_table("Triton model repository", ("what", "value"), written.rows())
    console.write_result(json_file, written.record())
