"""From a guard folder to the artifact: one graph, checked from every side before it is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, final

import onnx
import onnxruntime

from export.bundle import entry_of, refuse_foreign, write_artifact
from export.calibration import calibrated_threshold
from export.classifier_graph import ClassifierGraph, Precision, from_onnx, from_torch
from export.guard_front import GuardFront, front_model
from export.parity import MARGINS, measure_parity
from export.placement import Fallback, session_placement, table_placement
from export.sessions import require_device
from export.splice import GuardedGraph, set_threshold, splice
from prn_guard import console
from prn_guard.contract import (
    BARE_FILE,
    GRAPH_FILE,
    REPEATING,
    SIGNATURE_FILE,
    UINT8_NHWC,
    Ball,
    Classifier,
    Detection,
    InputTensor,
    Manifest,
    Parity,
    Placement,
)
from prn_guard.errors import ArtifactError, TargetError
from prn_guard.model_file import read_model_facts
from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.nn.rectifier import in_half_precision
from prn_guard.session import Device
from prn_guard.signing import check_private_key
from prn_guard.version import __version__
from training.guard.folder import GuardRecord, load_bank, load_guard, stored_onnx
from training.guard.pictures import recorded_pictures

ClientInput = Literal["uint8-nhwc", "same"]
SHOWN_FALLBACKS: Final = 5


@final
@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a guard is exported.

    Args:
        client_input: what clients send: 8-bit pixels, or what the classifier itself took.
        precision: of rectifier and classifier; the detector is always float32.
        with_bare: put the classifier alone beside the graph, to compare with.
        with_rectified: let the graph answer with the rectified picture too.
        allow_cpu_nodes: export although some nodes have no CUDA kernel.
        private_key: signs the manifest.
        device: what runs the graph for calibration and comparison; on "cuda" the session also says
            where it put each node.
        images: pictures for the comparison; None takes the fit's test pictures.
        limit: at most so many of them.
        data_folder: where to look for Fashion-MNIST first; None takes the fit's.
    """

    client_input: ClientInput = "uint8-nhwc"
    precision: Precision = "fp32"
    with_bare: bool = False
    with_rectified: bool = False
    allow_cpu_nodes: bool = False
    private_key: Path | None = None
    device: Device = "cpu"
    images: str | None = None
    limit: int | None = None
    data_folder: Path | None = None


def export_guard(folder: Path, out: Path, options: ExportOptions) -> Manifest:
    """Export the guard of `folder` to the artifact folder `out`.

    Raises:
        InvalidArgumentError: `out` holds other files; the key cannot be used.
        ArtifactError: the guard folder is damaged; the graph does not decide as it does, or would
            not run wholly on a GPU.
        TargetError: the target cannot be rebuilt or exported.
        DataError: pictures are missing or do not fit.
        DeviceError: "cuda" was asked for and cannot be had.
        StorageError: the artifact could not be written.
    """
    refuse_foreign(out)
    require_device(options.device)
    if options.private_key is not None:
        check_private_key(options.private_key)
    guarded, record = load_guard(folder)
    pictures = recorded_pictures(
        record,
        options.images or record.test_pictures,
        "test",
        limit=options.limit,
        data_folder=options.data_folder,
    )
    console.say("Exporting the graph")
    classifier = _classifier(folder, guarded, record, options.precision)
    graph = guarded_graph(guarded, classifier, options)
    _refuse_unservable(graph)
    placement = _placement(graph, options)
    detection = _calibrate(graph, guarded, record, folder, options)
    console.say(f"Comparing it with the torch modules on {len(pictures)} pictures")
    parity = measure_parity(
        graph,
        classifier,
        guarded,
        pictures,
        load_bank(folder).unseen,
        margins=MARGINS[options.precision],
        device=options.device,
    )
    files = {GRAPH_FILE: graph.model.SerializeToString()}
    if options.with_bare:
        files[BARE_FILE] = classifier.model.SerializeToString()
    manifest = _manifest(record, graph, classifier, detection, parity, placement, files, options)
    if options.private_key is None and (out / SIGNATURE_FILE).exists():
        console.say(f"The earlier export in {out} was signed; this one is not.")
    write_artifact(out, manifest, files, private_key=options.private_key)
    return manifest


def guarded_graph(
    guarded: GuardedClassifier, classifier: ClassifierGraph, options: ExportOptions
) -> GuardedGraph:
    """Put rectifier and detector of `guarded` in front of `classifier`."""
    spec = guarded.target.spec
    same = options.client_input == "same"
    own = InputTensor(name=classifier.input_name, dtype="float32", layout=spec.layout)
    tensor = own if same else UINT8_NHWC
    half = options.precision == "fp16"
    rectifier = in_half_precision(guarded.rectifier) if half else guarded.rectifier
    front = GuardFront(
        rectifier, guarded.detector, spec, tensor, with_rectified=options.with_rectified
    )
    return splice(front_model(front), classifier, tensor, keep_outputs=same)


def _classifier(
    folder: Path, guarded: GuardedClassifier, record: GuardRecord, precision: Precision
) -> ClassifierGraph:
    stored = stored_onnx(folder, record)
    if stored is None:
        return from_torch(guarded.target, precision=precision)
    return from_onnx(stored, precision=precision)


def _placement(graph: GuardedGraph, options: ExportOptions) -> Placement:
    ask = session_placement if options.device == "cuda" else table_placement
    placement, fallbacks = ask(graph.model.SerializeToString())
    if fallbacks and not options.allow_cpu_nodes:
        raise ArtifactError(
            f"{len(fallbacks)} of {placement.nodes} nodes would leave the GPU: "
            f"{_listed(fallbacks)}. Every picture would then travel to the CPU and back. Nothing "
            "was exported. docs/check-refuses.md says what to do; --allow-cpu-nodes exports all "
            "the same."
        )
    return placement


def _refuse_unservable(graph: GuardedGraph) -> None:
    """Refuse operators that the runtime would refuse in the end, before the long part."""
    facts = read_model_facts(graph.model.SerializeToString())
    found = sorted(facts.operators & REPEATING) + sorted(facts.domains - {""})
    if found or facts.functions:
        raise TargetError(
            f"The target exports to {', '.join(found) or 'functions of its own'}, and the runtime "
            "loads no graph with loops, functions or operators that are not standard ONNX. "
            "Nothing was exported. Write the module without them: unroll its loops."
        )


def _listed(fallbacks: tuple[Fallback, ...]) -> str:
    shown = "; ".join(
        f"{item.node} ({item.op}, {item.reason})" for item in fallbacks[:SHOWN_FALLBACKS]
    )
    return shown + ("; ..." if len(fallbacks) > SHOWN_FALLBACKS else "")


def _calibrate(
    graph: GuardedGraph,
    guarded: GuardedClassifier,
    record: GuardRecord,
    folder: Path,
    options: ExportOptions,
) -> Detection:
    """In half precision, give graph and modules the threshold that the graph's scores ask for."""
    threshold = record.threshold
    if options.precision == "fp16":
        console.say("Calibrating the threshold on the exported graph")
        threshold = calibrated_threshold(
            graph, record, folder, data_folder=options.data_folder, device=options.device
        )
        set_threshold(graph.model, threshold)
        guarded.detector.threshold.fill_(threshold)
    return Detection(
        threshold=threshold,
        fitted_threshold=record.threshold,
        target_false_positive_rate=record.false_positive_rate,
        calibration_pictures=record.calibration_pictures,
    )


def _manifest(
    record: GuardRecord,
    graph: GuardedGraph,
    classifier: ClassifierGraph,
    detection: Detection,
    parity: Parity,
    placement: Placement,
    files: Mapping[str, bytes],
    options: ExportOptions,
) -> Manifest:
    return Manifest(
        created_by=f"prn-guard {__version__}",
        versions={
            **record.versions,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        opset=classifier.opset,
        precision=options.precision,
        input=record.input,
        tensor=graph.tensor,
        resize=record.resize,
        class_names=record.class_names,
        outputs=graph.outputs,
        names=graph.names,
        classifier=Classifier(
            source=classifier.source, file_sha256=classifier.file_sha256, digest=graph.digest
        ),
        trained_against=Ball(norm=record.norm, epsilon=record.epsilon),
        detection=detection,
        parity=parity,
        placement=placement,
        files=tuple(entry_of(name, content) for name, content in files.items()),
    )
