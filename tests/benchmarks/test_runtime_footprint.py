"""What counts as the runtime's own size, on a site-packages whose sizes are known."""

import subprocess
import sys

import pytest

from benchmarks import runtime_footprint
from prn_guard.files import read_json
from tests.tiny_guard import write_guard

MEBIBYTE = 1 << 20


def install(site, name, files):
    """Files by path and size, and the metadata that pip would leave beside them."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    for path, size in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(bytes(size))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    record = [*files, f"{info.name}/METADATA", f"{info.name}/RECORD"]
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in record))


@pytest.fixture
def site(tmp_path):
    install(tmp_path, "pip", {"pip/main.py": 9, "__pycache__/shared.pyc": 1})
    install(tmp_path, "setuptools", {"setuptools/a.py": 9, "pkg_resources/b.py": 9, "odd.pth": 1})
    install(tmp_path, "pipework", {"pipework/c.py": MEBIBYTE, "pipework/d/e.py": MEBIBYTE // 2})
    install(tmp_path, "single", {"single.py": 3 * MEBIBYTE, "__pycache__/single.pyc": 7})
    return tmp_path


def test_what_pip_brings_does_not_count(site):
    found = runtime_footprint.sizes(site)
    assert set(found) == {
        "pipework", "pipework-1.0.dist-info", "single.py", "single-1.0.dist-info", "__pycache__"
    }  # fmt: skip
    assert list(found.items())[:2] == [("single.py", 3.0), ("pipework", 1.5)]


def test_files_that_no_distribution_claims_count(site):
    (site / "stray.bin").write_bytes(bytes(MEBIBYTE))
    assert runtime_footprint.sizes(site)["stray.bin"] == 1


def test_an_artifact_is_described_by_what_it_is(tmp_path):
    described = runtime_footprint.describe(write_guard(tmp_path / "secret name"))
    assert described == "fp32, pictures 3 x 8 x 8, 3 classes, 0.00 MiB"


def test_medians_are_compared_one_kind_of_seconds_at_a_time():
    own, base = [(3.0, 0.5), (9.0, 0.75), (4.0, 4.0)], [(1.0, 0.25), (2.0, 0.125), (7.0, 0.25)]
    compared = runtime_footprint.compare(own, base)
    assert compared["elapsed_seconds"] == {
        "own": {"median": 4, "range": [3, 9]},
        "onnxruntime": {"median": 2, "range": [1, 7]},
        "difference": 2,
    }
    assert compared["processor_seconds"]["difference"] == 0.5


def test_a_command_that_fails_ends_the_measurement():
    assert runtime_footprint._answer(sys.executable, "-c", "print(' 7 ')") == "7"
    with pytest.raises(SystemExit, match="division by zero"):
        runtime_footprint._answer(sys.executable, "-c", "1 / 0")


def test_the_checkout_is_not_on_the_path_of_what_is_measured(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = runtime_footprint._environment()
    shown = subprocess.run(
        [sys.executable, "-c", "import sys; print(sys.path)"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "/elsewhere" not in shown.stdout


def test_the_published_figures_keep_their_limits():
    result = read_json(runtime_footprint.RESULT)
    assert result["mebibytes"] <= result["limit_mebibytes"]
    assert result["unwanted_found"] == []
    assert result["predict"]["exit_code"] == 0
    assert not {"pip", "setuptools", "pkg_resources"} & set(result["mebibytes_of"])
