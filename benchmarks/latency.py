"""What the guard costs: guarded against bare latency, in pairs, in one run.

    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.latency
    PRN_GUARD_DATA=DATA .venv/bin/python -m benchmarks.latency --device cuda

Rectifiers have random weights here, which cost what fitted ones cost. In onnxruntime both graphs
take what they take in service: 8-bit pixels the guarded one, float32 on its own scale the bare one;
in torch both modules take pixels in [0, 1].
Writes `benchmarks/results/latency.json`, and its table into docs/benchmarks.md (on a GPU
`latency_cuda.json`, where the session is also asked which nodes it put on the CPU).
"""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import onnx
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.classifiers import data_folder, efficientnet_lite0, resnet50
from benchmarks.publishing import publish, table
from export.classifier_graph import Precision, from_onnx, from_torch
from export.pipeline import ExportOptions, guarded_graph
from export.placement import session_placement, table_placement
from prn_guard import console
from prn_guard.bench import Run, measure
from prn_guard.bench_sessions import ALONE
from prn_guard.contract import InputTensor
from prn_guard.files import read_json, write_json
from prn_guard.nn.detector import build_detector, detector_spec
from prn_guard.nn.guarded import GuardedClassifier
from prn_guard.nn.rectifier import RectifierSpec, build_rectifier, default_spec
from prn_guard.nn.target import Target
from prn_guard.preparation import to_tensor
from prn_guard.session import Device, load_graph
from training.progress import tracked
from training.setting import hardware
from training.targets import InputOptions, load_target
from training.targets.onnx_files import OnnxClassifier

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results"
PAGE: Final = ROOT / "docs" / "benchmarks.md"
BATCH_SIZES: Final = (1, 32)
AIMS: Final = {"MobileNetV2 (ONNX)": 1.5, "EfficientNet-Lite0": 1.4, "ResNet-50": 1.15}
COLUMNS: Final = (
    "classifier", "rectifier", "in", "batch", "bare, ms", "guarded, ms", "ratio (5-95 %)", "aim",
    "n",
)  # fmt: skip
LEAST_SECONDS: Final = 20.0
PAPER: Final = RectifierSpec(architecture="paper", channels=3)
"""19.07 GMAC at 224 x 224, where the default takes 0.29."""

Loaded = tuple[Target, OnnxClassifier | None]


def main(
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="What runs the graphs.")] = "cpu",
    seconds: Annotated[float, typer.Option(help="For each batch size at least.")] = LEAST_SECONDS,
) -> None:
    """Measure, write down, print."""
    precisions: tuple[Precision, ...] = ("fp32", "fp16") if device == "cuda" else ("fp32",)
    load: Mapping[str, Callable[[], Loaded]] = {
        "MobileNetV2 (ONNX)": _mobilenet_v2,
        "EfficientNet-Lite0": lambda: (efficientnet_lite0(), None),
        "ResNet-50": lambda: (resnet50(), None),
    }
    rows: list[dict[str, Any]] = []
    with tracked("Latency") as track:
        for name, loader in load.items():
            loaded = loader()
            usual = default_spec(3, loaded[0].spec.height, loaded[0].spec.width)
            for precision, rectifier in product(precisions, (usual, PAPER)):
                rows += _rows(name, loaded, precision, rectifier, device, seconds)
                track(len(rows), 6 * len(load) * len(precisions), name)
    versions = {package: version(package) for package in ("numpy", "onnx", "torch")}
    versions["onnxruntime"] = version("onnxruntime-gpu")
    path = RESULTS / ("latency.json" if device == "cpu" else "latency_cuda.json")
    write_json(path, {"hardware": hardware(), "device": device, "versions": versions, "rows": rows})
    if device == "cpu":
        publish(PAGE, "latency", render(read_json(path)))
    console.say(render(read_json(path)))


def render(result: Mapping[str, Any]) -> str:
    """The table of docs/benchmarks.md, in Markdown."""
    rows = []
    for row in result["rows"]:
        ratio, aim = row["ratio"], row["aim"]
        rows.append(
            [
                row["classifier"],
                row["rectifier"],
                row["runtime"],
                str(row["batch_size"]),
                f"{row['bare']['median_ms']:.2f}",
                f"{row['guarded']['median_ms']:.2f}",
                f"{ratio['median']:.2f} ({ratio['p5']:.2f}-{ratio['p95']:.2f})",
                "" if aim is None else f"{aim:g}",
                str(row["rounds"]),
            ]
        )
    versions = ", ".join(f"{name} {found}" for name, found in result["versions"].items())
    note = (
        f"Medians over n pairs on {result['hardware']}; {versions}. The rectifiers: `compact` "
        "(the default when this was measured: a quarter of the resolution, width 32, 3 blocks at "
        "one level) and `paper`. The aim is one for the default in onnxruntime."
    )
    return f"{table(COLUMNS, rows, left=3)}\n{note}\n"


def _rows(
    name: str,
    loaded: Loaded,
    precision: Precision,
    rectifier: RectifierSpec,
    device: Device,
    seconds: float,
) -> list[dict[str, Any]]:
    target, stored = loaded
    classifier = (
        from_torch(target, precision=precision)
        if stored is None
        else from_onnx(stored, precision=precision)
    )
    guarded = randomly_guarded(target, rectifier)
    graph = guarded_graph(guarded, classifier, ExportOptions(precision=precision))
    spec = target.spec
    own = InputTensor(name=classifier.input_name, dtype="float32", layout=spec.layout)
    size = (max(BATCH_SIZES), spec.height, spec.width, spec.channels)
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    content = graph.model.SerializeToString()
    placement, _ = (session_placement if device == "cuda" else table_placement)(content)
    pairs: dict[str, tuple[Run, Run]] = {
        "onnxruntime": (
            _run(graph.model, to_tensor(pixels, spec, graph.tensor), graph.outputs, device),
            _run(classifier.model, to_tensor(pixels, spec, own), classifier.outputs, device),
        )
    }
    if precision == "fp32":
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255).to(device)
        pairs["torch"] = _torch(guarded.to(device), images), _torch(target.to(device), images)
    # The paper's network takes seconds for a batch of 32, and the ratio is that of one picture.
    sizes = BATCH_SIZES if rectifier.architecture == "compact" else BATCH_SIZES[:1]
    facts = {
        "classifier": name,
        "precision": precision,
        "rectifier": rectifier.architecture,
        "aim": AIMS[name] if rectifier.architecture == "compact" else None,
        "placement": placement.basis,
        "nodes": placement.nodes,
        "nodes_on_cpu": list(placement.on_cpu),
    }
    return [
        facts | {"runtime": runtime} | one.to_json()
        for runtime, pair in pairs.items()
        for one in measure(*pair, sizes, least_seconds=seconds)
    ]


def randomly_guarded(target: Target, rectifier_spec: RectifierSpec) -> GuardedClassifier:
    """`target` behind a rectifier with random weights, which cost what fitted ones cost."""
    spec = target.spec
    rectifier = build_rectifier(rectifier_spec, generator=torch.Generator().manual_seed(0))
    nn.init.normal_(rectifier.exit.weight, std=0.01)
    detector = build_detector(detector_spec(spec.height, spec.width), spec.height, spec.width)
    guarded = GuardedClassifier(target, rectifier, detector)
    return guarded.requires_grad_(requires_grad=False).eval()


def _run(
    model: onnx.ModelProto, images: NDArray[Any], outputs: tuple[str, ...], device: Device
) -> Run:
    session = load_graph(model.SerializeToString(), device, model.graph.name, entries=ALONE)
    name = session.get_inputs()[0].name
    return lambda size: session.run(list(outputs), {name: images[:size]})


def _torch(module: nn.Module, images: Tensor) -> Run:
    laid_out = images.contiguous(memory_format=torch.channels_last)

    def run(size: int) -> None:
        with torch.inference_mode():
            module(laid_out[:size])
        if images.is_cuda:
            torch.cuda.synchronize()

    return run


def _mobilenet_v2() -> Loaded:
    path = data_folder() / "imagenet_models" / "mobilenet_v2_imagenet.onnx"
    loaded = load_target(str(path), input_options=InputOptions.parse(pixel_range=255))
    return loaded.target, loaded.onnx


if __name__ == "__main__":
    typer.run(main)
