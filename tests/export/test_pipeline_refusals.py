"""What `export guard` refuses, and when: placement, devices, what the runtime would not load."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from export.pipeline import ExportOptions, export_guard
from export.splice import GuardedGraph
from prn_guard import Guard
from prn_guard.errors import ArtifactError, DeviceError, TargetError
from tests.commands import Run, assert_refused
from tests.export.conftest import Artifact
from tests.export.running import answers_of, no_work
from tests.export.small_classifiers import twin_model
from training.datasets import Pictures
from training.guard.folder import load_guard
from training.guard.pictures import recorded_pictures
from training.targets.onnx_files import parse_onnx

Wrap = Callable[..., Path]
QUICK = ExportOptions(limit=20)


# Placement


@pytest.mark.usefixtures("same_front")
def test_a_node_without_a_kernel_is_refused_or_listed(
    run: Run, in_front_of: Wrap, tmp_path: Path
) -> None:
    folder = in_front_of(twin_model(opset=23, pooled=True))
    out = tmp_path / "out"
    command = ("guard", folder, "--out", out, "--limit", 20)
    assert_refused(
        run(*command),
        "1 of ",
        "pool (MaxPool, CUDA kernels up to version 12",
        "docs/check-refuses.md",
        "--allow-cpu-nodes",
    )
    assert not out.exists()
    assert run(*command, "--allow-cpu-nodes").code == 0
    placement = Guard(out).manifest.placement
    assert (placement.on_cpu, placement.basis) == (("pool",), "kernel table")
    assert run(*command, "--out", tmp_path / "o").code == 2
    older = in_front_of(twin_model(opset=20, pooled=True))
    assert export_guard(older, tmp_path / "older", QUICK).placement.on_cpu == ()


def test_a_missing_gpu_is_noticed_before_the_work(
    run: Run, guard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("export.pipeline.load_guard", no_work)
    ended = run("guard", guard_folder, "--out", tmp_path / "out", "--device", "cuda")
    assert_refused(ended, "built without CUDA", "choose another device than cuda")
    with pytest.raises(DeviceError):
        export_guard(guard_folder, tmp_path / "out", ExportOptions(device="cuda"))
    assert not (tmp_path / "out").exists()


# What the runtime would refuse


def _through(node: onnx.NodeProto) -> onnx.ModelProto:
    """A classifier whose answer `y` goes through one more node, to the output `again`."""
    model = twin_model()
    model.graph.node.append(node)
    model.graph.output[0].name = "again"
    return model


def _value(
    name: str, kind: int = TensorProto.FLOAT, shape: Sequence[int] | None = None
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _looping() -> onnx.ModelProto:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["still"]),
            helper.make_node("Identity", ["in"], ["out"]),
        ],
        "body",
        [_value("i", TensorProto.INT64, []), _value("on", TensorProto.BOOL, []), _value("in")],
        [_value("still", TensorProto.BOOL, []), _value("out")],
    )
    model = _through(helper.make_node("Loop", ["times", "", "y"], ["again"], body=body))
    model.graph.initializer.append(helper.make_tensor("times", TensorProto.INT64, [], [1]))
    return model


def _scanning() -> onnx.ModelProto:
    node = helper.make_node("Identity", ["in"], ["out"])
    body = helper.make_graph([node], "body", [_value("in")], [_value("out")])
    return _through(helper.make_node("Scan", ["y"], ["again"], body=body, num_scan_inputs=1))


def _foreign() -> onnx.ModelProto:
    model = _through(helper.make_node("Gelu", ["y"], ["again"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def _functional() -> onnx.ModelProto:
    model = _through(helper.make_node("Through", ["y"], ["again"], domain="own"))
    body = [helper.make_node("Identity", ["in"], ["out"])]
    imports = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("own", "Through", ["in"], ["out"], body, imports))
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (_looping, "uses Loop"),
        (_scanning, "uses Scan"),
        (_foreign, "com.microsoft::Gelu"),
        (_functional, "own::Through"),
    ],
)
def test_files_that_the_runtime_would_refuse(
    run: Run, in_front_of: Wrap, tmp_path: Path, make: Callable[[], onnx.ModelProto], named: str
) -> None:
    """Already when they are read, so that no guard is fitted to them either."""
    model = make()
    content = model.SerializeToString()
    assert answers_of(model, np.zeros((2, 1, 12, 12), np.float32))["again"].shape == (2, 3)
    with pytest.raises(TargetError, match=named):
        parse_onnx(content, name="net.onnx")
    ended = run("guard", in_front_of(model), "--out", tmp_path / "out")
    assert_refused(ended, named, "target.onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick_export")
@pytest.mark.parametrize(("make", "named"), [(_looping, "Loop"), (_foreign, "com.microsoft")])
def test_graphs_that_the_runtime_would_refuse(
    artifact: Artifact,
    guard_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], onnx.ModelProto],
    named: str,
) -> None:
    """Of torch modules, too, before placement, calibration and comparison."""
    graph = GuardedGraph(
        model=make(), tensor=artifact.graph.tensor, names=artifact.graph.names, digest="0" * 64
    )
    monkeypatch.setattr("export.pipeline.guarded_graph", lambda *_: graph)
    monkeypatch.setattr("export.pipeline.table_placement", no_work)
    with pytest.raises(TargetError, match=f"exports to {named}.*Nothing was exported"):
        export_guard(guard_folder, tmp_path / "out", QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick_export")
def test_what_the_runtime_refuses_is_not_put_in_place(
    artifact: Artifact, guard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class names that are one too many, which only the runtime compares with the graph."""
    out = tmp_path / "out"
    shutil.copytree(artifact.folder, out)

    def with_one_more(folder: Path) -> Any:
        guarded, record = load_guard(folder)
        names = (*record.class_names, "another")
        return guarded, record.model_copy(update={"class_names": names})

    monkeypatch.setattr("export.pipeline.load_guard", with_one_more)
    monkeypatch.setattr("export.pipeline.recorded_pictures", _recorded_by(guard_folder))
    with pytest.raises(ArtifactError, match=r"output 'logits' is .* expected"):
        export_guard(guard_folder, out, QUICK)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert Guard(out).manifest == artifact.manifest


def _recorded_by(folder: Path) -> Callable[..., Pictures]:
    record = load_guard(folder)[1]
    return lambda _, *rest, **options: recorded_pictures(record, *rest, **options)
