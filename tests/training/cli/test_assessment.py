"""`assess` on the command line: everything that is measured of a guard, by one command."""

import json
from pathlib import Path

import pytest
import torch

from tests.commands import Run
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
        *("--steps", 3, "--precision", "bfloat16", "--seed", 4),
    )
    ended = run(*command)
    assert ended.code == 0, ended
    results = {name: json.loads((out / f"{name}.json").read_text()) for name in RESULTS}
    assert {name: one["request"]["seed"] for name, one in results.items()} == dict.fromkeys(
        RESULTS, 4
    )
    page = (out / "report.html").read_text()
    worst = results["informed"]["worst"]["guarded_perturbed_accuracy"]["value"]
    assert f"{100 * worst:.1f}" in page
    assert "JPEG" in page
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert run(*command).code == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")} == before
