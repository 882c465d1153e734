"""`attack-guard` on the command line."""

import json
from pathlib import Path

from tests.commands import Run, assert_refused
from tests.training.tiny_guard import EPSILON, Workplace


def test_a_guard_is_attacked_and_the_table_names_the_threat(
    run: Run, guard_folder: Path, work: Workplace, tmp_path: Path
) -> None:
    out = tmp_path / "informed"
    command = (
        *("attack-guard", guard_folder, "--images", work.images, "--out", out, "--limit", 60),
        *("--steps", 6, "--precision", "bfloat16", "--seed", 4, "--json", tmp_path / "r.json"),
        *("--entries", "expected guard", "--entries", "evade, weight 1"),
    )
    ended = run(*command)
    assert ended.code == 0, ended
    result = json.loads((out / "informed.json").read_text())
    assert json.loads((tmp_path / "r.json").read_text()) == result
    assert (out / "informed.safetensors").exists()
    assert list(result["attacks"]) == ["expected guard", "evade, weight 1"]
    request = result["request"]
    assert (request["steps"], request["precision"], request["seed"]) == (6, "bfloat16", 4)
    assert request["epsilon"] == EPSILON
    assert result["worst"]["guarded_perturbed_accuracy"]["n"] == 60
    text = " ".join(ended.out.split())  # the note is broken at the table's width
    assert "linf, epsilon 0.15 (38.25/255); the attacker knows target, rectifier," in text
    assert f"Worst: {result['worst']['attack']}." in text
    clean = result["clean"]
    assert f"Clean: guarded {clean['guarded_clean_accuracy']['value']:.1%}, bare" in text
    assert "Masking checks: white box" in text
    for name in ("held-out: held-out 1", "transfer: bare target", "black box: random search"):
        assert name in ended.out
    assert "Attack 2 of 2: evade, weight 1: 6/6" in ended.err
    again = run(*command)
    assert again.code == 0
    assert json.loads((out / "informed.json").read_text())["attacks"] == result["attacks"]
    assert_refused(run(*command, "--seed", 5), "another seed (4 there, 5 now)")


def test_unknown_attacks_are_refused(
    run: Run, guard_folder: Path, work: Workplace, tmp_path: Path
) -> None:
    ended = run(
        *("attack-guard", guard_folder, "--images", work.images, "--out", tmp_path / "out"),
        *("--entries", "magic"),
    )
    assert_refused(ended, "no attack 'magic'", "expected guard, adam")
