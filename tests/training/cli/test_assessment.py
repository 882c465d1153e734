"""`assess` on the command line: everything that is measured of a guard, by one command."""

import json
from pathlib import Path

import pytest
import torch

from tests.commands import Run, assert_refused
from tests.training.small import SHAPE
from tests.training.tiny_guard import Workplace
from training.evaluation import adaptive, transfer_command
from training.evaluation.informed import suite
from training.evaluation.survey import Entry

RESULTS = ("metrics", "transfer", "informed")


def test_one_command_leaves_every_result_and_the_report(
    run: Run, guard_folder: Path, work: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each is tested whole elsewhere; these parts take longest.
    monkeypatch.setattr(adaptive, "adaptive_perturbation", lambda *_, **__: torch.zeros(SHAPE))
    monkeypatch.setattr(suite, "SUITE", suite.SUITE[:1])
    monkeypatch.setitem(transfer_command.transfer.__kwdefaults__, "families", [Entry("perlin")])
    out = tmp_path / "assessment"
    command = (
        *("assess", guard_folder, "--images", work.images, "--out", out, "--limit", 40),
        *("--steps", 3, "--precision", "bfloat16", "--json", tmp_path / "all.json"),
    )
    ended = run(*command, "--seed", 4)
    assert ended.code == 0, ended
    results = {name: json.loads((out / f"{name}.json").read_text()) for name in RESULTS}
    assert {name: one["request"]["seed"] for name, one in results.items()} == dict.fromkeys(
        RESULTS, 4
    )
    page = (out / "report.html").read_text()
    worst = results["informed"]["worst"]["guarded_perturbed_accuracy"]["value"]
    assert f"{100 * worst:.1f}" in page
    assert "JPEG" in page
    assert json.loads((tmp_path / "all.json").read_text()) == results
    before = _contents(out)
    # Other seeds would have the other parts measured anew.
    assert_refused(run(*command, "--seed", 5), "another seed (4 there, 5 now)", "--restart")
    assert _contents(out) == before
    assert run(*command, "--seed", 4).code == 0
    again = _contents(out)
    assert {name: again[name] for name in before if name.endswith("safetensors")} == {
        name: before[name] for name in before if name.endswith("safetensors")
    }
    assert run(*command, "--seed", 5, "--restart").code == 0
    seeds = {json.loads((out / f"{name}.json").read_text())["request"]["seed"] for name in RESULTS}
    assert seeds == {5}


def _contents(out: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was written, and what it holds."""
    files = (path for path in out.rglob("*") if path.is_file())
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
