"""Install the wheel into a fresh environment, and measure its size and how fast it is imported.

    .venv/bin/python benchmarks/runtime_footprint.py [--artifact FOLDER]

The wheel takes onnxruntime-gpu on Linux x86-64; the plain CPU build is put in its place, so the
wheel is installed without its dependencies and they are named here. Writes
`benchmarks/results/runtime_footprint.json`.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import numpy as np
import typer
from PIL import Image

from prn_guard import console
from prn_guard.bench_sessions import available_cores, cpu_name
from prn_guard.contract import GRAPH_FILE, Manifest
from prn_guard.files import write_json
from tests.tiny_guard import write_guard

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "benchmarks" / "results" / "runtime_footprint.json"
DEMO: Final = ROOT / "runs" / "demo" / "guarded"
REQUIRED: Final = ("numpy>=2.1", "onnxruntime==1.31.*", "pillow>=12", "pydantic>=2.12", "rich>=14",
                   "typer>=0.20")  # fmt: skip
LIMIT_MEBIBYTES: Final = 250e6 / 2**20
REPEATS: Final = 15
BASE: Final = "import onnxruntime"
# Guard alone leaves onnxruntime to its first session, so the difference would flatter it.
OWN: Final = "import onnxruntime; from prn_guard import Guard"
INSTALLERS: Final = frozenset({"pip", "setuptools"})
"""In every fresh environment of Python 3.11; the runtime needs neither."""
UNWANTED: Final = ("torch", "onnx", "scipy")


def main(
    artifact: Annotated[Path | None, typer.Option(help="What `python -m export` wrote.")] = None,
) -> None:
    """Build, install, measure, write."""
    with tempfile.TemporaryDirectory(prefix="prn-guard-footprint-") as name:
        folder = Path(name)
        python = _install(folder)
        packages = sizes(_site_packages(python))
        given = artifact or (DEMO if DEMO.is_dir() else None)
        predicted = _predict(python, given or write_guard(folder / "guard"), folder)
        result: dict[str, Any] = {
            "commit": _answer("git", "describe", "--always", "--dirty"),
            "cpu": cpu_name(),
            "cores": available_cores(),
            "load": round(os.getloadavg()[0], 2),
            "python": platform.python_version(),
            "onnxruntime_build": "CPU, in place of onnxruntime-gpu",
            "packages": _packages(python),
            "mebibytes": round(sum(packages.values()), 1),
            "limit_mebibytes": round(LIMIT_MEBIBYTES, 1),
            "mebibytes_of": {key: round(value, 2) for key, value in packages.items()},
            "unwanted_found": [key for key in UNWANTED if key in packages],
            "import": _imports(python),
            "predict": {"artifact": "tiny" if given is None else describe(given), **predicted},
        }
    write_json(RESULT, result)
    console.say(json.dumps({k: v for k, v in result.items() if k != "packages"}, indent=1))


def sizes(site: Path) -> dict[str, float]:
    """Mebibytes of each entry of site-packages, largest first, without the installer's own.

    Whose an entry is, the distributions say themselves: that of setuptools alone are six entries,
    and not all of them bear its name.
    """
    tools, rest = _entries(site, INSTALLERS)
    found = {
        entry.name: sum(f.stat().st_size for f in [entry, *entry.rglob("*")] if f.is_file())
        for entry in site.iterdir()
        if entry.name not in tools - rest
    }
    return {k: v / 2**20 for k, v in sorted(found.items(), key=lambda pair: -pair[1])}


def _entries(site: Path, named: frozenset[str]) -> tuple[set[str], set[str]]:
    """Top-level names that the `named` distributions installed, and those of all others."""
    ours: set[str] = set()
    others: set[str] = set()
    for found in distributions(path=[str(site)]):
        tops = {file.parts[0] for file in found.files or ()}
        (ours if found.name.lower() in named else others).update(tops)
    return ours, others


def describe(artifact: Path) -> str:
    """What an artifact is, whatever its folder is called."""
    manifest = Manifest.read(artifact)
    picture = " x ".join(map(str, manifest.input.shape))
    (graph,) = (entry for entry in manifest.files if entry.name == GRAPH_FILE)
    return (
        f"{manifest.precision}, pictures {picture}, {len(manifest.class_names)} classes, "
        f"{graph.size_bytes / 2**20:.2f} MiB"
    )


def _packages(python: Path) -> dict[str, str]:
    listed = json.loads(_answer(python, "-m", "pip", "list", "--format=json"))
    return {one["name"]: one["version"] for one in listed if one["name"] not in INSTALLERS}


def _install(folder: Path) -> Path:
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip = (python, "-m", "pip", "--disable-pip-version-check")
    _answer(*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("prn_guard-*.whl")
    _answer(*pip, "install", *REQUIRED)
    _answer(*pip, "install", "--no-deps", wheel)
    return python


def _imports(python: Path) -> dict[str, Any]:
    """Seconds of fresh interpreters, the two statements in turn; one of each before, uncounted."""
    times: dict[str, list[tuple[float, float]]] = {OWN: [], BASE: []}
    for turn in range(REPEATS + 1):
        for statement, taken in times.items():
            begin, used = time.perf_counter(), _processor_seconds()
            _answer(python, "-c", statement)
            if turn:
                taken.append((time.perf_counter() - begin, _processor_seconds() - used))
    return {"n": REPEATS, **compare(times[OWN], times[BASE])}


def compare(
    own: Sequence[tuple[float, float]], base: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """Medians and ranges of (elapsed, processor) seconds, and what the one takes more."""
    result: dict[str, Any] = {"statement": OWN, "base": BASE}
    # On a busy machine only the processor's seconds say what the import itself costs.
    for index, kind in enumerate(("elapsed", "processor")):
        ours, theirs = [taken[index] for taken in own], [taken[index] for taken in base]
        result[f"{kind}_seconds"] = {
            "own": {"median": median(ours), "range": [min(ours), max(ours)]},
            "onnxruntime": {"median": median(theirs), "range": [min(theirs), max(theirs)]},
            "difference": median(ours) - median(theirs),
        }
    return result


def _processor_seconds() -> float:
    """Of all children that have ended."""
    spent = os.times()
    return spent.children_user + spent.children_system


def _predict(python: Path, artifact: Path, folder: Path) -> dict[str, Any]:
    """Run `prn-guard predict` on a PNG of the artifact's size; what it said if it failed."""
    spec = Manifest.read(artifact).input
    shape = (spec.height, spec.width, spec.channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    picture = folder / "picture.png"
    Image.fromarray(pixels[..., 0] if spec.channels == 1 else pixels).save(picture)
    ended = subprocess.run(  # noqa: S603
        [python.with_name("prn-guard"), "predict", artifact, picture],
        cwd=folder, env=_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    error = ended.stderr.strip().splitlines()[-1:] if ended.returncode else []
    return {"exit_code": ended.returncode, "error": error}


def _site_packages(python: Path) -> Path:
    return Path(_answer(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def _answer(*command: str | Path) -> str:
    ended = subprocess.run(  # noqa: S603
        command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False
    )
    if ended.returncode:
        sys.exit(f"{command} failed: {ended.stderr}")
    return ended.stdout.strip()


if __name__ == "__main__":
    typer.run(main)
