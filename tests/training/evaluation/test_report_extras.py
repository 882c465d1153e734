"""The sections of the report that only some evaluations have."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prn_guard.errors import ArtifactError
from prn_guard.files import sha256_of, write_json
from tests.training.evaluation.page import rendered
from tests.training.evaluation.sample import UNDER, metrics, write_evaluation, write_guard
from training.evaluation.report_extras import extra_sections
from training.guard.folder import DETECTOR, RECTIFIER

CLEAN = ("clean_accuracy", "guarded_clean_accuracy", "false_positive_rate")
KNOWS = "the attacker knows the target at most"


def _figures() -> Iterator[dict[str, Any]]:
    """Figures of which no two are alike, nor like those of the evaluation."""
    number = 0
    while True:
        number += 1
        value = 0.3 + number * 0.00137
        yield {"value": value, "n": 321, "low": value - 0.02, "high": value + 0.03}


def _request(guard: Path) -> dict[str, str]:
    return {"rectifier": sha256_of(guard / RECTIFIER), "detector": sha256_of(guard / DETECTOR)}


def _transfer(guard: Path) -> dict[str, Any]:
    made = _figures()

    def row(name: str, *, factor: float, **known: Any) -> dict[str, Any]:
        return {
            "name": name, "kind": "family", "norm": "linf", "factor": factor, "perturbations": 2,
            "linf": 0.04, "l2": 1.25, "relative_accuracy": next(made),
            "least_relative_accuracy": 0.5, **known,
        } | {key: next(made) for key in UNDER}  # fmt: skip

    seen = {"family": "stochastic gradient", "trained_family": True}
    new = {"family": "procedural", "trained_family": False}
    other = {"family": None, "trained_family": None, "norm": "l2"}
    rows = [
        row("held-out", factor=1.0, **seen),
        row("perlin", factor=1.0, **new),
        row("perlin", factor=1.5, **new),
        row("strange.npy", factor=1.0, **other),
    ]
    names = ("held-out", "perlin", "strange.npy")
    return {
        "request": _request(guard),
        "threat_model": {
            "norm": "linf", "epsilon": 0.125, "knows": KNOWS, "larger": "multiplied",
            "elsewhere": "own size", "baselines": "a transform", "false_alarms": "no attacker",
        },
        "setting": {"test_pictures": 321},
        "clean": {key: next(made) for key in CLEAN},
        "perturbations": {f"{one['name']} x {one['factor']:g}": one for one in rows},
        "baselines": {
            name: {
                "clean_accuracy": next(made),
                "accuracy": {key: next(made) for key in names},
            }
            for name in ("no defense", "JPEG 75")
        },
        "false_alarms": {"Gaussian blur": {key: next(made) for key in CLEAN}},
        "summary": {
            "groups": 1, "mean_relative_accuracy": 0.61234, "least_relative_accuracy": 0.51234,
        },
    }  # fmt: skip


def _informed(guard: Path, *, as_list: bool) -> dict[str, Any]:
    made = _figures()
    rows = {
        name: {"through": through} | {key: next(made) for key in UNDER}
        for name, through in (("third start", "soft gate"), ("wide gate", "wide gate"))
    }
    worst = min(rows, key=lambda name: rows[name]["guarded_perturbed_accuracy"]["value"])
    shared = {
        "request": _request(guard),
        "threat_model": {"norm": "linf", "epsilon": 0.125, "attacks": "all is known to it"},
        "masking": {"verdict": {"white_box": next(made), "ordered": True}},
        "strength_curve": [{"steps": 125, "guarded": next(made)}],
    }
    if as_list:
        listed = [{"name": name} | row for name, row in rows.items()]
        return shared | {"rows": listed, "worst": worst}
    return shared | {"attacks": rows, "worst": {"attack": worst} | rows[worst]}


@pytest.fixture
def guard(tmp_path: Path) -> Path:
    write_guard(tmp_path / "guard")
    write_evaluation(tmp_path / "evaluation", metrics(tmp_path / "guard"))
    return tmp_path / "guard"


def _in(content: Any) -> Iterator[float]:
    """Every figure's value in a result."""
    if isinstance(content, dict):
        if "low" in content:
            yield content["value"]
        else:
            for inner in content.values():
                yield from _in(inner)


def _shown(value: float) -> str:
    """A figure as a cell of a table has it."""
    return f"{100 * value:.2f} {100 * (value - 0.02):.2f} to {100 * (value + 0.03):.2f}"


def test_without_the_files_nothing_of_them_is_shown(guard: Path) -> None:
    text = rendered(guard, guard.parent / "evaluation").text
    assert "Baselines" not in text
    assert "full strength" not in text
    assert "Other kinds show only under “made elsewhere”." in text


def test_every_figure_of_the_transfer_is_shown_with_its_threat_model(guard: Path) -> None:
    content = _transfer(guard)
    write_json(guard.parent / "evaluation" / "transfer.json", content)
    page = rendered(guard, guard.parent / "evaluation")
    shown = {key: value for key, value in content.items() if key != "clean"}
    values = [*_in(shown), content["clean"]["guarded_clean_accuracy"]["value"]]
    assert len(values) > 35
    for value in values:
        assert _shown(value) in page.text
    assert "family procedural, held out; mean of 2" in page.text
    assert "perlin x 1.5;" in page.text
    assert "family stochastic gradient, fitted on" in page.text
    assert "strange.npy; made for l2: linf 10.2/255, l2 1.25" in page.text
    assert "61.23 % of the bare target's clean accuracy on average, and 51.23 %" in page.text
    captions = page.html.split("<caption>")
    about = [one.split("</caption>")[0] for one in captions if "321" in one.split("</caption>")[0]]
    assert len(about) == 3
    assert sum("linf, epsilon 0.125" in one and KNOWS in one for one in about) == 2
    assert "no attacker" in about[2]


@pytest.mark.parametrize("as_list", [True, False])
def test_the_informed_attacker_is_shown_row_by_row_whatever_stands_beside(
    guard: Path, *, as_list: bool
) -> None:
    content = _informed(guard, as_list=as_list)
    write_json(guard.parent / "evaluation" / "informed.json", content)
    text = rendered(guard, guard.parent / "evaluation").text
    rows = content["rows"] if as_list else content["attacks"].values()
    for row in rows:
        for value in _in(row):
            assert _shown(value) in text
    least = min(row["guarded_perturbed_accuracy"]["value"] for row in rows)
    assert f"at worst {100 * least:.2f} % accuracy" in text
    assert "third start (through soft gate)" in text
    assert "all is known to it" in text
    assert "masking, verdict, ordered yes" in text
    assert "strength curve 1, steps 125" in text


def test_the_worst_of_an_earlier_run_does_not_hide_a_row_that_followed(guard: Path) -> None:
    content = _informed(guard, as_list=False)
    harder = {key: dict(value) for key, value in content["attacks"]["wide gate"].items()
              if key in UNDER}  # fmt: skip
    harder["guarded_perturbed_accuracy"] |= {"value": 0.0123, "low": 0.01, "high": 0.02}
    content["attacks"]["later"] = harder
    write_json(guard.parent / "evaluation" / "informed.json", content)
    assert "at worst 1.23 % accuracy" in rendered(guard, guard.parent / "evaluation").text


def test_results_of_another_guard_or_not_whole_are_refused(guard: Path) -> None:
    evaluation = guard.parent / "evaluation"
    content = _transfer(guard)
    digests = content["request"]

    def refused(name: str, result: dict[str, Any], *, match: str) -> None:
        write_json(evaluation / name, result)
        with pytest.raises(ArtifactError, match=match):
            extra_sections(evaluation, digests)
        (evaluation / name).unlink()

    other = content | {"request": digests | {"detector": "0" * 64}}
    refused("transfer.json", other, match=r"transfer\.json was measured with another detector")
    for name in ("summary", "false_alarms", "threat_model"):
        part = {key: value for key, value in content.items() if key != name}
        refused("transfer.json", part, match=f"not whole.* at {name}")
    empty = {key: value for key, value in _informed(guard, as_list=True).items() if key != "rows"}
    refused("informed.json", empty, match="no row of figures")
    write_json(evaluation / "transfer.json", other)
    with pytest.raises(ArtifactError, match="another detector"):
        rendered(guard, evaluation)
    assert not (guard.parent / "report.html").exists()
