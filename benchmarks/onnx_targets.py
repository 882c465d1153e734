"""Which torchvision networks can be guarded as ONNX files, by opset.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/onnx_targets.py

Each network, with random weights, is exported to ONNX at each opset and read back as a user's file
would be: converted to torch for its gradients and compared with onnxruntime. Then a guard that
flags nothing is spliced in front of it, whose outputs must have the bits of the file's own. Writes
one row per network and opset to `benchmarks/results/onnx_targets.json`; prints them as a table.
"""

import functools
import logging
import tempfile
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision
import typer
from torch import nn

from export.classifier_graph import from_onnx
from export.guard_front import GuardFront, front_model
from export.placement import table_placement
from export.sessions import runner
from export.splice import set_threshold, splice
from prn_guard import console
from prn_guard.contract import UINT8_NHWC, InputSpec, InputTensor
from prn_guard.errors import TargetError
from prn_guard.files import read_json, write_json
from prn_guard.nn.detector import DetectorSpec, build_detector
from prn_guard.nn.rectifier import build_rectifier, default_spec
from prn_guard.preparation import to_tensor
from training.progress import tracked
from training.targets.onnx_files import OnnxClassifier, read_onnx
from training.targets.onnx_torch import convert

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "benchmarks" / "results" / "onnx_targets.json"
SIDE: Final = 64
OPSETS: Final = (13, 17, 18, 20, 23)
FIRST_OF_DYNAMO: Final = 18
NETWORKS: Final[Mapping[str, Mapping[str, Any]]] = {
    "resnet18": {},
    "squeezenet1_1": {},
    "mobilenet_v2": {},
    "mobilenet_v3_small": {},
    "efficientnet_b0": {},
    "densenet121": {},
    "shufflenet_v2_x1_0": {},
    "regnet_y_400mf": {},
    "convnext_tiny": {},
    "googlenet": {"init_weights": False, "aux_logits": False},
    "vit_b_16": {"image_size": SIDE},
}
"""Names, and what torchvision must be told to build them small and plain."""
PACKAGES: Final = ("torch", "torchvision", "onnx", "onnx2pytorch", "onnx2torch", "onnxscript")
COLUMNS: Final = (
    "network", "opset", "exporter", "converter", "relative_difference",
    "passed_through_bit_equal", "nodes", "nodes_without_cuda_kernel", "refusal",
)  # fmt: skip
OUT_OF_REACH: Final = 1e30


def main(
    network: Annotated[
        list[str] | None,
        typer.Option(help="Measure only these anew, and keep the others' rows; may be repeated."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The result file.")] = RESULT,
) -> None:
    """Export, read back, write down."""
    names = network or list(NETWORKS)
    rows: list[dict[str, Any]] = []
    with (
        tracked("ONNX targets") as track,
        tempfile.TemporaryDirectory(prefix="prn-guard-onnx-") as folder,
    ):
        for name in names:
            module = build(name)
            for opset in OPSETS:
                rows.append(measure(name, module, opset, Path(folder)))
                track(len(rows), len(names) * len(OPSETS), f"{name}, opset {opset}")
    if out.exists():
        rows += [row for row in read_json(out)["rows"] if row["network"] not in names]
    rows.sort(key=lambda row: (list(NETWORKS).index(row["network"]), row["opset"]))
    versions = {package: version(package) for package in PACKAGES}
    versions["onnxruntime"] = version("onnxruntime-gpu")
    write_json(out, {"side": SIDE, "versions": versions, "rows": rows})
    console.print_table(
        "ONNX targets", COLUMNS, [tuple(_cell(row, column) for column in COLUMNS) for row in rows]
    )
    console.say(f"Written: {out}.")


def build(name: str) -> nn.Module:
    """A network of random weights whose answers depend on the picture."""
    torch.manual_seed(0)
    module: nn.Module = torchvision.models.get_model(name, weights=None, **NETWORKS[name])
    for layer in module.modules():
        # Vision transformers begin with a last layer of zeros, which has no gradient to compare.
        if isinstance(layer, nn.Linear) and not bool(layer.weight.any()):
            nn.init.normal_(layer.weight, std=0.02)
    return module.eval()


def measure(name: str, module: nn.Module, opset: int, folder: Path) -> dict[str, Any]:
    """One row: how the network was exported, and what became of the file."""
    row: dict[str, Any] = {
        "network": name,
        "opset": opset,
        "exporter": "dynamo" if opset >= FIRST_OF_DYNAMO else "torchscript",
        "converter": None,
        "relative_difference": None,
        "refusal": None,
    }
    path = folder / f"{name}_{opset}.onnx"
    begin = time.monotonic()
    try:
        export(module, opset, path)
    except Exception as error:  # torch's exporters have a kind of their own for every cause
        row["refusal"] = f"torch exports no such file: {str(error).strip().splitlines()[0]}"
        return row
    row["export_seconds"] = round(time.monotonic() - begin, 1)
    begin = time.monotonic()
    try:
        row |= read_back(path)
    except TargetError as error:
        row["refusal"] = str(error).replace(str(path), path.name)
    row["seconds"] = round(time.monotonic() - begin, 1)
    return row


def export(module: nn.Module, opset: int, path: Path) -> None:
    """Export with a free batch axis, by the exporter that writes this opset."""
    images = torch.rand(2, 3, SIDE, SIDE)
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        # Deprecations inside the exporters; the file they write is what is looked at.
        warnings.simplefilter("ignore")
        if opset >= FIRST_OF_DYNAMO:
            torch.onnx.export(
                module, (images,), path, opset_version=opset, dynamo=True, external_data=False,
                dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
                input_names=["image"], output_names=["logits"],
            )  # fmt: skip
        else:
            torch.onnx.export(
                module, (images,), path, opset_version=opset, dynamo=False,
                dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
                input_names=["image"], output_names=["logits"],
            )  # fmt: skip


def read_back(path: Path) -> dict[str, Any]:
    """The columns of a file that is taken as a target."""
    classifier = read_onnx(path)
    spec = InputSpec(
        channels=3, height=SIDE, width=SIDE, mean=(0.0,) * 3, std=(1.0,) * 3,
        layout=classifier.layout,
    )  # fmt: skip
    conversion = convert(classifier, spec)
    return {
        "converter": conversion.converter,
        "relative_difference": float(f"{conversion.relative_difference:.2g}"),
        **splice_in_front(classifier, spec),
    }


def splice_in_front(classifier: OnnxClassifier, spec: InputSpec) -> dict[str, Any]:
    """Put a guard that flags nothing in front of a file, both ways; are its answers the file's?"""
    alone = from_onnx(classifier, precision="fp32")
    own = InputTensor(name=alone.input_name, dtype="float32", layout=spec.layout)
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.uint8)
    session = onnxruntime.InferenceSession(classifier.content, providers=["CPUExecutionProvider"])
    image = to_tensor(pixels, spec, own)
    (expected,) = session.run([alone.logits_name], {alone.input_name: image})
    equal, columns = True, {}
    for tensor, keep in ((UINT8_NHWC, False), (own, True)):
        graph = splice(front(tensor, spec), alone, tensor, keep_outputs=keep)
        set_threshold(graph.model, OUT_OF_REACH)
        name = graph.names.logits
        given = runner(graph.model)(to_tensor(pixels, spec, graph.tensor), (name,))[name]
        equal &= np.array_equal(given.view(np.int32), expected.view(np.int32))
        placement, _ = table_placement(graph.model.SerializeToString())
        columns = {"nodes": placement.nodes, "nodes_without_cuda_kernel": len(placement.on_cpu)}
    return {"passed_through_bit_equal": equal, **columns}


@functools.cache
def front(tensor: InputTensor, spec: InputSpec) -> onnx.ModelProto:
    """The guard's front with random weights."""
    rectifier = build_rectifier(default_spec(spec.channels, SIDE, SIDE))
    nn.init.normal_(rectifier.exit.weight, std=0.01)
    return front_model(
        GuardFront(rectifier, build_detector(DetectorSpec(), SIDE, SIDE), spec, tensor)
    )


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None:
        return ""
    return f"{value:.1e}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    typer.run(main)
