"""Files and manifests made to harm.

Graphs and manifests here are sealed anew, so that every digest is right: digests are no defence.
"""

import json
import os

import pytest

from prn_guard.contract import seal
from prn_guard.errors import ArtifactError
from prn_guard.session import open_session
from tests.prn_guard.refusals import assert_refused


def sparse(path, size):
    with path.open("wb") as stream:
        stream.truncate(size)


# Files


def test_oversized_manifest_is_not_read(folder):
    sparse(folder / "manifest.json", 1 << 40)
    assert_refused(folder, "manifest.json", "larger than 16777216 bytes")


def test_graph_beyond_protobuf_is_not_read(write_guard):
    size = 1 << 40
    folder = write_guard(manifest=lambda m: m["files"][0].update(size_bytes=size))
    sparse(folder / "guarded.onnx", size)
    assert_refused(folder, "guarded.onnx", "at most 2147483647")


def test_oversized_signature_is_not_read(folder, tmp_path):
    sparse(folder / "manifest.sig", 1 << 40)
    assert_refused(folder, "manifest.sig", "larger than", public_key=tmp_path / "key.pem")


@pytest.mark.parametrize("name", ["manifest.json", "guarded.onnx", "manifest.sig"])
def test_pipes_and_folders_are_refused_and_not_waited_for(folder, name, tmp_path):
    options = {"public_key": tmp_path / "key.pem"} if name == "manifest.sig" else {}
    path = folder / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert_refused(folder, name, "no plain file", **options)
    path.unlink()
    path.mkdir()
    assert_refused(folder, name, "no plain file", **options)


@pytest.mark.parametrize("name", ["manifest.json", "guarded.onnx", "manifest.sig"])
def test_links_out_of_the_folder_are_refused(folder, name, tmp_path):
    options = {"public_key": tmp_path / "key.pem"} if name == "manifest.sig" else {}
    (folder / "manifest.sig").write_bytes(bytes(64))
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to("../elsewhere")
    assert_refused(folder, name, "inside its folder", **options)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    assert_refused(folder, name, "inside its folder", **options)
    (folder / name).unlink()
    (folder / name).symlink_to(name)
    assert_refused(folder, name, "cannot be read", **options)


def test_further_files_are_compared_too(write_guard):
    entry = {"name": "bare.onnx", "sha256": "0" * 64, "size_bytes": 4}
    folder = write_guard(manifest=lambda m: m["files"].append(entry))
    (folder / "bare.onnx").write_bytes(b"abcd")
    assert_refused(folder, "bare.onnx", "has changed")
    (folder / "bare.onnx").unlink()
    os.mkfifo(folder / "bare.onnx")
    assert_refused(folder, "bare.onnx", "no plain file")


# Manifests


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "cannot be read as JSON"),
        (b"\x00", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b'{"a": 1', "cannot be read as JSON"),
        (b'{"a": NaN}', "no finite number"),
        (b'{"a": -Infinity}', "no finite number"),
        (b'{"a": 1e999}', "no finite number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands twice"),
        (
            b"{%s}" % b",".join(b'"%d": 0' % key for key in [*range(200_000), 199_999]),
            "'199999' stands twice",
        ),
        (b"[" * 40 + b"]" * 40, "nests deeper than 32"),
        (b"[" * 2_000_000 + b"]" * 2_000_000, "cannot be read as JSON"),
        (b'{"a":' * 1_000_000, "cannot be read as JSON"),
        (b'"' + b'\\"' * 4_000_000, "cannot be read as JSON"),
        (b"[]", "does not follow"),
        (b"null", "does not follow"),
        (b'"\\ud800"', "does not follow"),
        (b"{}", "does not follow"),
    ],
)
def test_what_is_no_manifest_is_refused(folder, text, said):
    (folder / "manifest.json").write_bytes(text)
    assert_refused(folder, "manifest.json", said)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(manifest_version=3),
        lambda m: m.update(manifest_version="2"),
        lambda m: m.update(manifest_version=True),
        lambda m: m.update(opset="20"),
        lambda m: m.update(opset=10**400),
        lambda m: m.update(opset=12),
        lambda m: m.update(created_by=["a"]),
        lambda m: m.update(outputs="logits"),
        lambda m: m.update(outputs={"logits": 1}),
        lambda m: m.update(class_names=None),
        lambda m: m["names"].update(label="score"),
        lambda m: m["names"].update(label="halved"),
        lambda m: m.update(outputs=["flagged", "score", "label", "logits", "logits"]),
        lambda m: m["tensor"].update(dtype="float16"),
        lambda m: m["tensor"].update(name=""),
        lambda m: m["detection"].update(threshold="0.5"),
        lambda m: m["detection"].update(threshold=1e39),
        lambda m: m["files"][0].update(size_bytes=float(m["files"][0]["size_bytes"])),
        lambda m: m["files"][0].update(name="guarded.onnx/"),
        lambda m: m["files"][0].update(name="guarded\u0000.onnx"),
        lambda m: m.update({"\u001b[31m": 1}),
    ],
)
def test_manifest_of_wrong_types_is_refused_though_sealed(write_guard, change):
    folder = write_guard(manifest=change)
    assert_refused(folder, "manifest.json", "does not follow manifest version 2")


def test_messages_do_not_steer_the_terminal(write_guard):
    with pytest.raises(ArtifactError) as caught:
        open_session(write_guard(manifest=lambda m: m.update({"\u001b[31mred": 1})))
    assert "\u001b" not in str(caught.value)


def test_key_twice_is_refused_though_the_seal_is_right(folder):
    path = folder / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"opset": 20', '"opset": 13, "opset": 20'))
    assert json.loads(path.read_text())["manifest_sha256"] == seal(
        {k: v for k, v in json.loads(text).items() if k != "manifest_sha256"}
    )
    assert_refused(folder, "manifest.json", "'opset' stands twice")
