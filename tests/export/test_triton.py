"""The repository on disk: what Triton will read, and what is refused."""

import errno
import os
import shutil
from pathlib import Path
from typing import NoReturn

import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2 as schema

from export import triton
from export.triton import write_repository
from export.triton_config import Settings
from prn_guard.contract import UINT8_NHWC, Manifest, OutputNames
from prn_guard.errors import ArtifactError, InvalidArgumentError, StorageError
from tests.export.small_artifact import (
    CLASSES,
    DROP_IN,
    EXTRA,
    small_graph,
    write_small_artifact,
)

ODD = OutputNames(logits='out"put:0', label="label\n", score="scöre", flagged="f\\")
TYPES = {
    TensorProto.FLOAT: schema.TYPE_FP32,
    TensorProto.UINT8: schema.TYPE_UINT8,
    TensorProto.BOOL: schema.TYPE_BOOL,
    TensorProto.INT64: schema.TYPE_INT64,
}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_small_artifact(tmp_path / "artifact")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def config_of(model: Path) -> schema.ModelConfig:
    return text_format.Parse((model / "config.pbtxt").read_text(), schema.ModelConfig())


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_layout(artifact, out):
    (artifact / "manifest.sig").write_bytes(b"s" * 64)
    write_repository(artifact, out, Settings(version=3))
    files = files_of(out)
    assert files.pop("guarded/config.pbtxt")
    assert files.pop("guarded/labels.txt").decode().split("\n") == [*CLASSES, ""]
    assert files == {
        "guarded/3/model.onnx": (artifact / "guarded.onnx").read_bytes(),
        "guarded/3/manifest.json": (artifact / "manifest.json").read_bytes(),
        "guarded/3/manifest.sig": b"s" * 64,
    }
    assert sorted(path.name for path in out.parent.iterdir()) == ["artifact", "repository"]


@pytest.mark.parametrize(
    ("tensor", "names", "extra"),
    [(UINT8_NHWC, OutputNames(), {}), (DROP_IN, ODD, EXTRA)],
    ids=["uint8-nhwc", "drop-in"],
)
def test_the_configuration_is_what_the_graph_says(tmp_path, out, tensor, names, extra):
    model = small_graph(tensor, names, extra=extra)
    artifact = write_small_artifact(tmp_path / "a", model, tensor=tensor, names=names)
    written = write_repository(artifact, out, Settings())
    config = config_of(written.model)
    graph = onnx.shape_inference.infer_shapes(model).graph
    for ours, theirs in (
        (config.input, graph.input),
        (config.output, graph.output),
    ):
        assert [entry.name for entry in ours] == [value.name for value in theirs]
        for entry, value in zip(ours, theirs, strict=True):
            kind = value.type.tensor_type
            assert entry.data_type == TYPES[kind.elem_type]
            row = [axis.dim_value or -1 for axis in kind.shape.dim][1:]
            shape = entry.reshape.shape if entry.HasField("reshape") else entry.dims
            assert list(shape) == row
            assert list(entry.dims) == (row or [1])
    assert [output.name for output in config.output if output.label_filename] == [names.logits]
    assert [o.name for o in written.interface.outputs][: len(extra)] == list(extra)


def test_further_versions_join(tmp_path, artifact, out):
    write_repository(artifact, out, Settings())
    first = files_of(out / "guarded" / "1")
    second = write_small_artifact(tmp_path / "second", small_graph(bias=1.0))
    written = write_repository(second, out, Settings(version=12, max_batch_size=16))
    assert written.versions == (1, 12)
    config = config_of(written.model)
    assert list(config.version_policy.specific.versions) == [1, 12]
    assert config.max_batch_size == 16
    assert files_of(out / "guarded" / "1") == first
    assert Manifest.read(out / "guarded" / "12") == Manifest.read(second)
    shutil.rmtree(out / "guarded" / "1")
    assert write_repository(second, out, Settings(version=12)).versions == (12,)


def test_a_version_that_another_command_wrote_meanwhile_is_listed(
    tmp_path, artifact, out, monkeypatch
):
    write_repository(artifact, out, Settings())
    other = write_small_artifact(tmp_path / "other", small_graph(bias=1.0))
    fill = triton._fill_version

    def slow(folder, *rest):
        fill(folder, *rest)
        monkeypatch.undo()
        write_repository(other, out, Settings(version=2))

    monkeypatch.setattr(triton, "_fill_version", slow)
    written = write_repository(other, out, Settings(version=3))
    assert written.versions == (1, 2, 3)
    assert list(config_of(written.model).version_policy.specific.versions) == [1, 2, 3]


def test_the_same_version_takes_new_settings_but_no_other_graph(tmp_path, artifact, out):
    write_repository(artifact, out, Settings())
    labels = out / "guarded" / "labels.txt"
    content = labels.read_bytes()
    labels.unlink()
    write_repository(artifact, out, Settings(max_batch_size=2))
    assert labels.read_bytes() == content
    assert config_of(out / "guarded").max_batch_size == 2
    before = files_of(out)
    other = write_small_artifact(tmp_path / "other", small_graph(bias=1.0))
    with pytest.raises(InvalidArgumentError, match=r"another graph.*Give --version 2"):
        write_repository(other, out, Settings())
    assert files_of(out) == before


@pytest.mark.parametrize(
    "other",
    [
        {"tensor": DROP_IN},
        {"class_names": ("ant", "bee", "cat", "dog")},
        {"model": small_graph(extra=EXTRA)},
        {"model": small_graph(classes=5), "class_names": ("a", "b", "c", "d", "e")},
    ],
    ids=["input", "class names", "outputs", "classes"],
)
def test_versions_of_another_interface_are_refused(tmp_path, artifact, out, other):
    write_repository(artifact, out, Settings())
    before = files_of(out)
    second = write_small_artifact(tmp_path / "second", **other)
    with pytest.raises(InvalidArgumentError, match="choose another --name"):
        write_repository(second, out, Settings(version=2))
    assert files_of(out) == before
    write_repository(second, out, Settings(name="other"))
    assert {key: value for key, value in files_of(out).items() if key in before} == before


def test_what_is_not_ours_stays(artifact, out):
    foreign = out / "guarded"
    (foreign / "1").mkdir(parents=True)
    (foreign / "1" / "model.plan").write_bytes(b"theirs")
    before = files_of(out)
    with pytest.raises(InvalidArgumentError, match="not written by this command"):
        write_repository(artifact, out, Settings(version=2))
    assert files_of(out) == before
    write_repository(artifact, out, Settings(name="mine"))
    (out / "empty").mkdir()
    (out / "file").write_bytes(b"theirs")
    for name in ("empty", "file"):
        with pytest.raises(InvalidArgumentError, match="not written by this command"):
            write_repository(artifact, out, Settings(name=name))


def test_an_edited_configuration_is_not_replaced(artifact, out):
    write_repository(artifact, out, Settings())
    config = out / "guarded" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 4"))
    with pytest.raises(InvalidArgumentError, match=r"was edited.*Move it away"):
        write_repository(artifact, out, Settings())
    config.unlink()
    write_repository(artifact, out, Settings(instances=4))
    assert config_of(out / "guarded").instance_group[0].count == 4


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_damaged_earlier_version_is_found(artifact, out, name):
    write_repository(artifact, out, Settings())
    path = out / "guarded" / "1" / name
    path.write_bytes(path.read_bytes().replace(b"small", b"smell").replace(b"tests", b"texts"))
    with pytest.raises(ArtifactError, match=r"not the file that|was changed"):
        write_repository(artifact, out, Settings(version=2))
    assert not (out / "guarded" / "2").exists()


def test_a_damaged_artifact_is_refused(artifact, out):
    content = bytearray((artifact / "guarded.onnx").read_bytes())
    content[40] ^= 1
    (artifact / "guarded.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match="has changed since it was exported"):
        write_repository(artifact, out, Settings())
    assert not out.exists()


def _sequence_output() -> onnx.ModelProto:
    model = small_graph()
    model.graph.node.append(helper.make_node("SequenceConstruct", ["score"], ["parts"]))
    model.graph.output.append(
        helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    )
    return model


@pytest.mark.parametrize(
    ("artifact", "error", "message"),
    [
        ({"model": small_graph(batch=4)}, InvalidArgumentError, "free first axis"),
        ({"model": small_graph(extra={"pooled": [1, 2]})}, InvalidArgumentError, "free first axis"),
        ({"model": _sequence_output()}, InvalidArgumentError, "seq\\(tensor\\(float\\)\\)"),
        ({"class_names": ("a", "b\nc", "d", "e")}, InvalidArgumentError, "'b\\\\nc' holds a line"),
        ({"outputs": ("logits", "label", "flagged", "score")}, ArtifactError, "by its manifest"),
        ({"model": small_graph(DROP_IN)}, ArtifactError, "The graph takes"),
    ],
    ids=["batch", "extra batch", "sequence", "line break", "order", "input"],
)
def test_graphs_that_triton_cannot_serve(tmp_path, out, artifact, error, message):
    model = artifact.pop("model", small_graph())
    folder = write_small_artifact(tmp_path / "a", model, **artifact)
    with pytest.raises(error, match=message):
        write_repository(folder, out, Settings())
    assert not out.exists()


def test_an_unloadable_graph_is_an_artifact_error(tmp_path, out):
    model = small_graph()
    model.graph.node[0].op_type = "NoSuchOperator"
    folder = write_small_artifact(tmp_path / "a", model)
    with pytest.raises(ArtifactError, match="does not load"):
        write_repository(folder, out, Settings())


def test_weights_outside_the_graph_are_not_taken(tmp_path, out, monkeypatch):
    model = small_graph()
    (steps,) = (tensor for tensor in model.graph.initializer if tensor.name == "steps")
    (tmp_path / "weights.bin").write_bytes(b"\0" * 4 * len(CLASSES))
    steps.ClearField("float_data")
    steps.data_location = TensorProto.EXTERNAL
    steps.external_data.add(key="location", value="weights.bin")
    folder = write_small_artifact(tmp_path / "a", model)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="values in other files"):
        write_repository(folder, out, Settings())


def test_a_full_disk_leaves_nothing(artifact, out, tmp_path, monkeypatch):
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("prn_guard.files.os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_repository(artifact, out, Settings())
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_a_version_is_taken_back_when_its_configuration_fails(tmp_path, artifact, out, monkeypatch):
    write_repository(artifact, out, Settings())
    before = files_of(out)
    second = write_small_artifact(tmp_path / "second", small_graph(bias=1.0))
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if target == out / "guarded" / "config.pbtxt":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="could not be put in place"):
        write_repository(second, out, Settings(version=2))
    assert files_of(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["artifact", "repository", "second"]


def test_the_service_is_written_beside_the_models(artifact, out):
    written = write_repository(artifact, out, Settings(), storage_uri="s3://b/c")
    service = out / "inference_service.yaml"
    assert written.service == service
    assert 'storageUri: "s3://b/c"' in service.read_text()
    write_repository(artifact, out, Settings(), storage_uri="pvc://claim/c")
    assert 'storageUri: "pvc://claim/c"' in service.read_text()
    before = files_of(out)
    with pytest.raises(InvalidArgumentError, match="for another model"):
        write_repository(artifact, out, Settings(name="other"), storage_uri="s3://b/c")
    with pytest.raises(InvalidArgumentError, match="no-uri"):
        write_repository(artifact, out, Settings(version=2), storage_uri="no-uri")
    assert files_of(out) == before
    write_repository(artifact, out, Settings(name="other"))
    assert service.read_text() == before["inference_service.yaml"].decode()
