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
def check(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="An artifact folder, or any .onnx file.")
    ],
    device: Annotated[
        str, typer.Option("--device", help="'table' needs no GPU; 'cuda' asks a session on one.")
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
