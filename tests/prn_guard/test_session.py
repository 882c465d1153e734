import hashlib
import os

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

from prn_guard import session
from prn_guard.artifact import read_artifact
from prn_guard.errors import ArtifactError
from prn_guard.session import open_session
from tests.prn_guard.tiny import unknown_operator


def test_graph_bytes_are_those_that_were_hashed(folder):
    manifest, graph = read_artifact(folder)
    assert hashlib.sha256(graph).hexdigest() == manifest.files[0].sha256


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_changed_graph_byte_is_refused(folder, place):
    path = folder / "guarded.onnx"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"guarded\.onnx has changed since it was exported"):
        open_session(folder)


@pytest.mark.parametrize("change", [lambda b: b + b"\0", lambda b: b[:-1], lambda _: b""])
def test_graph_of_another_size_is_refused(folder, change):
    path = folder / "guarded.onnx"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ArtifactError, match=r"found \d+ bytes"):
        open_session(folder)


def test_missing_pieces_are_refused(folder, tmp_path):
    with pytest.raises(ArtifactError, match="is no folder"):
        open_session(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="is no folder"):
        open_session(folder / "manifest.json")
    (folder / "guarded.onnx").unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_session(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
        open_session(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff"])
def test_manifest_that_is_no_manifest_is_refused(folder, text):
    content = text.encode("utf-8", "surrogateescape")
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        open_session(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(surprise=1),
        lambda m: m["input"].update(surprise=1),
        lambda m: m.update(manifest_version=1),
        lambda m: m.update(class_names=["only"]),
        lambda m: m.update(files=[]),
        lambda m: m["detection"].update(target_false_positive_rate=1.5),
        lambda m: m["files"][0].update(sha256="0" * 63),
        lambda m: m["files"][0].update(size_bytes=0),
        lambda m: m["files"][0].update(name="../guarded.onnx"),
        lambda m: m["files"][0].update(name="/etc/passwd"),
        lambda m: m["files"][0].update(name=".."),
        lambda m: m["files"][0].update(name="guarded.onnx\n"),
        lambda m: m.pop("detection"),
    ],
)
def test_manifest_outside_its_schema_is_refused(write_guard, change):
    with pytest.raises(ArtifactError, match="does not follow manifest version 2"):
        open_session(write_guard(manifest=change))


@pytest.mark.parametrize("size", [1, 10**15, 10**30])
def test_wrong_size_is_refused_before_reading(write_guard, size):
    folder = write_guard(manifest=lambda m: m["files"][0].update(size_bytes=size))
    with pytest.raises(ArtifactError, match=r"has changed|does not follow"):
        open_session(folder)


def test_wrong_hash_is_refused(write_guard):
    folder = write_guard(manifest=lambda m: m["files"][0].update(sha256="0" * 64))
    with pytest.raises(ArtifactError, match="has changed since it was exported"):
        open_session(folder)


@pytest.mark.parametrize(
    "change",
    [lambda files: files.append(dict(files[0])), lambda files: files[0].update(name="other.onnx")],
)
def test_graph_must_be_listed_once(write_guard, change):
    folder = write_guard(manifest=lambda m: change(m["files"]))
    with pytest.raises(ArtifactError, match="lists the files"):
        open_session(folder)


def test_every_listed_file_is_verified(write_guard):
    notes = b"calibration notes"
    entry = {
        "name": "notes.txt",
        "sha256": hashlib.sha256(notes).hexdigest(),
        "size_bytes": len(notes),
    }
    folder = write_guard(manifest=lambda m: m["files"].append(entry))
    with pytest.raises(ArtifactError, match=r"notes\.txt"):
        open_session(folder)
    (folder / "notes.txt").write_bytes(notes)
    open_session(folder)
    (folder / "notes.txt").write_bytes(notes.upper())
    with pytest.raises(ArtifactError, match=r"notes\.txt has changed"):
        open_session(folder)


def test_link_out_of_the_folder_is_refused(folder, tmp_path):
    path = folder / "guarded.onnx"
    path.rename(tmp_path / "elsewhere.onnx")
    path.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ArtifactError, match="no plain file inside its folder"):
        open_session(folder)


def test_link_inside_the_folder_and_linked_folder_are_taken(folder, tmp_path):
    (folder / "guarded.onnx").rename(folder / "data")
    (folder / "guarded.onnx").symlink_to("data")
    (tmp_path / "alias").symlink_to(folder)
    open_session(tmp_path / "alias")


def test_link_loop_and_pipe_are_refused(folder):
    path = folder / "guarded.onnx"
    path.unlink()
    path.symlink_to("guarded.onnx")
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_session(folder)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ArtifactError, match="no plain file"):
        open_session(folder)


@pytest.mark.parametrize(
    "graph", [lambda b: b[: len(b) // 2], lambda _: b"no graph", lambda b: b"\xff" * len(b)]
)
def test_malformed_graph_with_its_own_hash_is_refused(write_guard, graph):
    with pytest.raises(ArtifactError, match=r"guarded\.onnx is no ONNX model.*export the guard"):
        open_session(write_guard(graph=graph))


def test_unknown_operator_is_refused(write_guard):
    with pytest.raises(ArtifactError, match="does not load"):
        open_session(write_guard(model=unknown_operator))


@pytest.mark.parametrize("elsewhere", [True, False])
def test_weights_outside_the_graph_are_refused(write_guard, tmp_path, monkeypatch, elsewhere):
    """A graph given as bytes would otherwise read them from the working directory, unverified."""
    raw = {}

    def move_out(model):
        for tensor in model.graph.initializer:
            if tensor.name == "weights":
                raw["bytes"] = tensor.raw_data
                set_external_data(tensor, "weights.bin")
                tensor.ClearField("raw_data")
                tensor.data_location = onnx.TensorProto.EXTERNAL

    folder = write_guard(model=move_out)
    place = tmp_path if elsewhere else folder
    (place / "weights.bin").write_bytes(raw["bytes"])
    monkeypatch.chdir(place)
    with pytest.raises(ArtifactError, match="values in other files in 1 places"):
        open_session(folder)
    # Even a graph that the reader of the file would let pass finds nothing there.
    with pytest.raises(ArtifactError, match="does not load"):
        session.load_graph((folder / "guarded.onnx").read_bytes(), "cpu", place)


def _rename_output(model):
    model.graph.node[2].output[0] = "suspicion"
    model.graph.node[3].input[0] = "suspicion"
    model.graph.output[1].name = "suspicion"


def _rename_input(model):
    model.graph.input[0].name = "pixels_in"
    model.graph.node[0].input[0] = "pixels_in"


def _float_input(model):
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def _fixed_batch(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def _drop_output(model):
    del model.graph.output[0]


def _extra_output(model):
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("halved", onnx.TensorProto.FLOAT, ["N", 8, 8, 3])
    )


def _three_classes(model):
    for tensor in model.graph.initializer:
        if tensor.name in {"weights", "biases"}:
            fewer = np.ascontiguousarray(numpy_helper.to_array(tensor)[..., :3])
            tensor.CopyFrom(numpy_helper.from_array(fewer, tensor.name))
    model.graph.output[3].type.tensor_type.shape.dim[1].dim_value = 3


def _label_keeps_axis(model):
    model.graph.node[9].attribute[1].i = 1
    model.graph.output[2].type.tensor_type.shape.dim.add().dim_value = 1


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (_rename_output, "suspicion"),
        (_rename_input, "pixels_in"),
        (_float_input, r"tensor\(float\)"),
        (_fixed_batch, "N free"),
        (_drop_output, "has the outputs"),
        (_extra_output, "halved"),
        (_three_classes, "'logits'.*3"),
        (_label_keeps_axis, "'label'"),
    ],
)
def test_graph_outside_the_contract_is_refused(write_guard, model, said):
    with pytest.raises(ArtifactError, match=said):
        open_session(write_guard(model=model))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["input"].update(height=16),
        lambda m: m["class_names"].append("emu"),
        lambda m: m["outputs"].append("rectified"),
        lambda m: m.update(outputs=["logits", "label", "score", "rectified"]),
    ],
)
def test_graph_that_differs_from_its_manifest_is_refused(write_guard, change):
    with pytest.raises(ArtifactError, match="Export the guard anew"):
        open_session(write_guard(manifest=change))
