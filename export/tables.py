"""What an export prints."""

from pathlib import Path

from prn_guard.contract import Manifest, Parity

Rows = list[tuple[str, str]]


def manifest_rows(manifest: Manifest, out: Path) -> Rows:
    """The facts of an artifact, as rows of a table."""
    entry, placement, tensor = manifest.files[0], manifest.placement, manifest.tensor
    shape = ", ".join(str(size) for size in tensor.shape(manifest.input))
    where = f"{placement.basis}, onnxruntime {placement.onnxruntime}"
    on_gpu = placement.nodes - len(placement.on_cpu)
    return [
        ("graph", f"{out / entry.name}, {entry.size_bytes:,} bytes, opset {manifest.opset}"),
        ("sha256", entry.sha256),
        ("precision", manifest.precision),
        ("input", f"{tensor.name}: {tensor.dtype} (N, {shape})"),
        ("outputs", ", ".join(manifest.outputs)),
        ("classifier inside", f"{manifest.classifier.source}, {manifest.classifier.digest}"),
        ("nodes on the GPU", f"{on_gpu} of {placement.nodes} ({where})"),
        *_parity_rows(manifest.parity),
        *_calibration_rows(manifest),
    ]


def _parity_rows(parity: Parity) -> Rows:
    differences = f"{parity.max_logit_difference:.2g} / {parity.max_score_difference:.2g}"
    rectified = parity.max_rectified_difference
    shown = [] if rectified is None else [("largest difference, rectified", f"{rectified:.2g}")]
    return [
        ("pictures compared with torch", f"{parity.pictures:,}"),
        ("decided differently", f"{parity.differing}"),
        ("inside the margin band", f"{parity.inside_margin / parity.pictures:.3%}"),
        ("driven to the threshold / inside", f"{parity.driven} / {parity.driven_inside_margin}"),
        (
            "labels / flags wrong outside it",
            f"{parity.label_mismatches} / {parity.flag_mismatches}",
        ),
        ("largest difference, logits / score", differences),
        *shown,
        ("unflagged logits bit-equal to bare", "yes" if parity.unflagged_bit_equal else "NO"),
    ]


def _calibration_rows(manifest: Manifest) -> Rows:
    after, before = manifest.detection.threshold, manifest.detection.fitted_threshold
    if manifest.precision == "fp32":
        return []
    return [("threshold, calibrated on the graph", f"{after:.4f} ({after - before:+.2g})")]
