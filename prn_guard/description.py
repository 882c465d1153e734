"""A manifest in words, for `prn-guard inspect`."""

from prn_guard import console
from prn_guard.contract import OUTPUTS, RECTIFIED, Manifest

Rows = list[tuple[str, str]]


def describe(manifest: Manifest) -> Rows:
    """What and value, row by row, as the manifest has it: `console` makes it safe to print."""
    return [*_taken(manifest), *_graph(manifest), *_detection(manifest), *_origin(manifest)]


def _taken(manifest: Manifest) -> Rows:
    spec, tensor = manifest.input, manifest.tensor
    classes = len(manifest.class_names)
    shown = ", ".join(manifest.class_names[:5]) + (", ..." if classes > 5 else "")
    axes = ", ".join(str(size) for size in tensor.shape(spec))
    colours = "gray" if spec.channels == 1 else "RGB"
    where = "inside the graph" if tensor.dtype == "uint8" else "before the graph"
    return [
        ("pictures", f"{spec.width} x {spec.height}, {colours}"),
        ("input tensor", f"{tensor.name}: {tensor.dtype} (N, {axes}), {tensor.layout}"),
        (
            f"scaling, {where}",
            f"{spec.channel_order}, range {spec.pixel_range}, mean {spec.mean}, std {spec.std}",
        ),
        ("classes", f"{classes}: {shown}"),
    ]


def _graph(manifest: Manifest) -> Rows:
    names, placement, classifier = manifest.names, manifest.placement, manifest.classifier
    answers = [*zip(OUTPUTS, names.all(), strict=True)]
    answers += [(RECTIFIED, name) for name in names.on_request]
    stray = placement.on_cpu
    version = f"onnxruntime {placement.onnxruntime}"
    if stray:
        kernels = f"{len(stray)} of {placement.nodes} nodes have no CUDA kernel ({version}): "
        kernels += ", ".join(stray[:5]) + (", ..." if len(stray) > 5 else "")
    else:
        kernels = f"all {placement.nodes} nodes have a CUDA kernel ({version})"
    basis = "a session on a GPU" if placement.basis == "session" else "the table of kernels"
    return [
        ("outputs", ", ".join(manifest.outputs)),
        ("answers", ", ".join(f"{role}: {name}" for role, name in answers)),
        ("precision", manifest.precision),
        ("opset", str(manifest.opset)),
        ("placement", f"{kernels}, by {basis}"),
        ("classifier", classifier.source),
        ("sha256 of its file", classifier.file_sha256 or "none: it was no ONNX file"),
        ("sha256 in the graph", classifier.digest),
    ]


def _detection(manifest: Manifest) -> Rows:
    detection, parity = manifest.detection, manifest.parity
    ball = manifest.trained_against
    before, after = f"{detection.fitted_threshold:.6g}", f"{detection.threshold:.6g}"
    same = detection.fitted_threshold == detection.threshold
    calibrated = "" if same else f" (before calibration on the graph: {before})"
    mismatches = (
        f"{parity.label_mismatches} label and {parity.flag_mismatches} flag mismatches, "
        f"{parity.differing} with the margins counted"
    )
    compared = f"{parity.pictures} pictures and {parity.driven} at the threshold"
    inside = f"{parity.inside_margin} and {parity.driven_inside_margin} inside the margin"
    return [
        ("threshold", after + calibrated),
        ("false-positive rate", f"{detection.target_false_positive_rate:.3%}"),
        ("calibration pictures", str(detection.calibration_pictures)),
        ("trained against", console.ball_text(ball.norm, ball.epsilon)),
        ("parity with torch", f"{compared}, {mismatches}, {inside}"),
        (
            "largest difference",
            f"logits {parity.max_logit_difference:.3g}, score {parity.max_score_difference:.3g}",
        ),
        ("unflagged bit-equal", "yes" if parity.unflagged_bit_equal else "no"),
    ]


def _origin(manifest: Manifest) -> Rows:
    return [
        ("created by", manifest.created_by),
        ("versions", ", ".join(f"{name} {value}" for name, value in manifest.versions.items())),
    ]
