"""What an export prints."""

from pathlib import Path

from prn_guard.contract import Manifest


def manifest_rows(manifest: Manifest, out: Path) -> list[tuple[str, str]]:
    """The facts of an artifact, as rows of a table."""
    parity, entry, detection = manifest.parity, manifest.files[0], manifest.detection
    placement = manifest.placement
    tensor = manifest.tensor
    shape = ", ".join(str(size) for size in tensor.shape(manifest.input))
    where = f"{placement.basis}, onnxruntime {placement.onnxruntime}"
    rows = [
        ("graph", f"{out / entry.name}, {entry.size_bytes:,} bytes, opset {manifest.opset}"),
        ("sha256", entry.sha256),
        ("precision", manifest.precision),
        ("input", f"{tensor.name}: {tensor.dtype} (N, {shape})"),
        ("outputs", ", ".join(manifest.outputs)),
        (
            "classifier inside",
            f"{manifest.classifier.source}, {manifest.classifier.digest[:16]}...",
        ),
        (
            "nodes on the GPU",
            f"{placement.nodes - len(placement.on_cpu)} of {placement.nodes} ({where})",
        ),
        ("parity, pictures compared", f"{parity.pictures:,}"),
        (
            "labels / flags beyond the margins",
            f"{parity.label_mismatches} / {parity.flag_mismatches}",
        ),
        ("decided differently at all", f"{parity.differing}"),
        ("inside the margin band", f"{parity.inside_margin / parity.pictures:.3%}"),
        (
            "driven to the threshold / inside",
            f"{parity.driven} / {parity.driven_inside_margin}",
        ),
        (
            "largest difference, logits / score",
            f"{parity.max_logit_difference:.2g} / {parity.max_score_difference:.2g}",
        ),
        ("unflagged logits bit-equal to bare", "yes" if parity.unflagged_bit_equal else "NO"),
    ]
    if manifest.precision == "fp16":
        shift = detection.threshold - detection.fitted_threshold
        rows.append(
            ("threshold, calibrated on the graph", f"{detection.threshold:.4f} ({shift:+.2g})")
        )
    return rows
