"""Guards that benchmarks measure: what is measured of one, and the tables that show it."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import guards_measured
from benchmarks.guarded import Ball, Classifier
from benchmarks.guards_measured import Measurement, measured
from benchmarks.guards_table import render
from prn_guard.errors import DataError
from tests.training.tiny_guard import EPSILON, Workplace
from training.evaluation.survey import Entry

SMALLER = EPSILON / 2


@pytest.fixture(scope="module")
def figures(
    guard_folder: Path, work: Workplace, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Everything that is measured of the tiny guard, by short attacks."""
    place = tmp_path_factory.mktemp("measured")
    images = str(work.images)
    classifier = Classifier(name="tiny", target=work.target, training=images, test=images)
    plan = Measurement(
        elsewhere={}, other_norm={}, judged=40, steps=4, attacks=["rectifier", "evade, weight 1"],
        families=[Entry("perlin")], radii=(EPSILON, SMALLER),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guards_measured, "WORK", place)
        patch.setattr(guards_measured, "results_of", lambda _: place / "results")
        found = measured(
            guard_folder, classifier, Ball(name="linf", norm="linf", epsilon=EPSILON), plan
        )
    return {"row": "default", "commit": "abc", **json.loads(json.dumps(found))}


def _result(*guards: dict[str, Any]) -> dict[str, Any]:
    named = {f"{one['row']}, seed {seed}": one for seed, one in enumerate(guards)}
    return {"guards": named, "hardware": "a CPU", "threads": 2, "versions": {"torch": "2"}}


def _lines(text: str, title: str) -> list[list[str]]:
    """The cells of the table under a title, without its two head lines."""
    _, _, rest = text.partition(f"**{title}")
    lines = [line for line in rest.split("\n\n")[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_study_stays_in_its_own_ball(figures: dict[str, Any]) -> None:
    assert [one["threat_model"]["epsilon"] for one in figures["informed"]] == [EPSILON, SMALLER]
    for study in figures["informed"]:
        rows = [*study["attacks"].values(), *study["held_out"].values()]
        most = study["threat_model"]["epsilon"] * (1 + 1e-6)
        assert all(row["measured_norm"] <= most for row in rows)
    assert "masking" in figures["informed"][0]
    assert "masking" not in figures["informed"][1]


def test_the_tables_show_what_was_measured_of_both_seeds(figures: dict[str, Any]) -> None:
    other = copy.deepcopy(figures)
    worst = other["informed"][0]["worst"]
    worst["guarded_perturbed_accuracy"] = {"value": 0.125, "low": 0.1, "high": 0.2, "n": 40}
    worst["attack"] = "rectifier"
    text = render(_result(figures, other))
    (headline,) = _lines(text, "Held-out")
    clean = figures["apart"]["clean_accuracy"]
    cell = "{value:.1f} ({low:.1f}-{high:.1f})".format(
        **{key: 100 * clean[key] for key in ("value", "low", "high")}
    )
    assert headline[:3] == ["default", f"linf {255 * EPSILON:g}/255", f"{cell} / {cell}"]
    own, smaller = _lines(text, "The attacker knows everything")
    first = figures["informed"][0]["worst"]
    assert own[2].endswith(" / 12.5 (10.0-20.0)")
    assert own[3] == f"{first['attack']} / rectifier"
    assert own[6:] == ["2", "4", "40"]
    assert smaller[1] == f"linf {255 * SMALLER:g}/255"
    each = _lines(text, "Each of these attacks")
    assert [row[2] for row in each] == ["rectifier", "evade, weight 1"] * 2
    assert each[0][5].startswith("0: ")
    perturbed = {row[1] for row in _lines(text, "Families held out")}
    assert perturbed == {"held-out, linf", "perlin, linf"}
    baselines = _lines(text, "Baselines")
    assert [row[0] for row in baselines][-1] == "the guard (default)"
    assert len(_lines(text, "False alarms")) == len(figures["transfer"]["false_alarms"])
    assert "of commit" not in text
    assert "fitted by commit abc" in text


def test_seeds_that_were_attacked_otherwise_are_not_shown_as_one(figures: dict[str, Any]) -> None:
    other = copy.deepcopy(figures)
    other["informed"][0]["request"]["steps"] = 5
    with pytest.raises(DataError, match="2 different sets of attacks, steps or pictures"):
        render(_result(figures, other))
