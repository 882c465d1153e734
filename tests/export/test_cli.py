"""`python -m export`: from a guard folder to an artifact, or a reason why not."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from prn_guard import Guard
from tests.commands import Run, assert_refused
from tests.export.conftest import Artifact

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("quick_export")
def test_export_prints_and_writes_the_manifest(
    run: Run, guard_folder: Path, tmp_path: Path
) -> None:
    ended = run("guard", guard_folder, "--out", tmp_path / "out", "--json", tmp_path / "m.json")
    assert ended.code == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    del manifest["manifest_sha256"]
    assert json.loads((tmp_path / "m.json").read_text()) == manifest
    assert manifest["files"][0]["sha256"] in ended.out
    assert "0 / 0" in ended.out
    assert "yes" in ended.out


def test_what_cannot_be_exported_is_refused(run: Run, guard_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    missing = run("guard", tmp_path / "nowhere", "--out", out)
    assert_refused(missing, "holds no finished guard", "python -m training fit --out")
    pictures = run("guard", guard_folder, "--out", out, "--images", tmp_path / "nowhere")
    assert_refused(pictures, "no such folder", "Expected fashion-mnist")
    copy = tmp_path / "guard"
    shutil.copytree(guard_folder, copy)
    content = bytearray((copy / "target.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "target.safetensors").write_bytes(content)
    assert_refused(run("guard", copy, "--out", out), "target.safetensors has changed", "anew")
    foreign = run("guard", guard_folder, "--out", copy)
    assert_refused(foreign, "holds other files", "Choose another --out")
    assert not out.exists()


@pytest.mark.usefixtures("quick_export")
def test_a_full_disk_leaves_nothing_half_written(
    run: Run, guard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("prn_guard.files.os.fsync", full)
    ended = run("guard", guard_folder, "--out", tmp_path / "out", "--limit", 5)
    assert_refused(ended, "could not be written", "No space left")
    assert list(tmp_path.iterdir()) == []


def test_the_help_imports_no_framework() -> None:
    code = (
        "import sys; from export import cli; "
        "print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    ended = subprocess.run(  # noqa: S603 - our own interpreter and text
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


def test_as_a_program(artifact: Artifact, guard_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = subprocess.run(  # noqa: S603 - our own interpreter and text
        [sys.executable, "-m", "export", "guard", str(guard_folder), "--out", str(out)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert Guard(out).manifest.files == artifact.manifest.files[:1]  # the very same bytes
