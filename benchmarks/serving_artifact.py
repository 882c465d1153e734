"""EfficientNet-Lite0 behind a rectifier with random weights, as an artifact that can be served.

It costs what a fitted guard costs, and defends against nothing.
"""

from pathlib import Path
from typing import Final

import onnx
import onnxruntime

from benchmarks.classifiers import efficientnet_lite0
from benchmarks.latency import randomly_guarded
from export.bundle import entry_of, write_artifact
from export.classifier_graph import from_torch
from export.pipeline import ExportOptions, guarded_graph
from export.placement import table_placement
from prn_guard.contract import (
    GRAPH_FILE,
    Ball,
    Classifier,
    Detection,
    Manifest,
    Parity,
)
from prn_guard.nn.rectifier import default_spec

NAME: Final = "efficientnet-lite0"
_NOT_COMPARED: Final = Parity(
    pictures=1,
    driven=0,
    label_mismatches=0,
    flag_mismatches=0,
    differing=0,
    inside_margin=0,
    driven_inside_margin=0,
    score_margin=1e-3,
    logit_margin=1e-3,
    max_logit_difference=0.0,
    max_score_difference=0.0,
    unflagged_bit_equal=True,
)
"""The manifest needs figures; nobody reads these."""


def write_efficientnet_lite0(folder: Path) -> Path:
    """Write the artifact to `folder / NAME`, unless it lies there; 224 x 224, uint8-nhwc, fp32."""
    place = folder / NAME
    if place.exists():
        return place
    target = efficientnet_lite0()
    spec = target.spec
    rectifier = default_spec(spec.channels, spec.height, spec.width)
    guarded = randomly_guarded(target, rectifier)
    classifier = from_torch(target, precision="fp32")
    graph = guarded_graph(guarded, classifier, ExportOptions())
    content = graph.model.SerializeToString()
    placement, _ = table_placement(content)
    threshold = float(guarded.detector.threshold)
    manifest = Manifest(
        created_by="benchmarks",
        versions={"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        opset=classifier.opset,
        precision="fp32",
        input=spec,
        tensor=graph.tensor,
        class_names=tuple(str(number) for number in range(1000)),
        outputs=graph.outputs,
        names=graph.names,
        classifier=Classifier(
            source=classifier.source, file_sha256=classifier.file_sha256, digest=graph.digest
        ),
        trained_against=Ball(norm="linf", epsilon=10 / 255),
        detection=Detection(
            threshold=threshold,
            fitted_threshold=threshold,
            target_false_positive_rate=0.01,
            calibration_pictures=500,
        ),
        parity=_NOT_COMPARED,
        placement=placement,
        files=(entry_of(GRAPH_FILE, content),),
    )
    write_artifact(place, manifest, {GRAPH_FILE: content}, private_key=None)
    return place
