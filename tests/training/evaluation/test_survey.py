"""The survey of attacks: figures measured again, and a table that grows without crafting twice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prn_guard.errors import InvalidArgumentError
from prn_guard.version import __version__
from tests.tolerances import BALL, FIGURE, INTERVAL, assert_close
from tests.training.small import everything, trained_target
from tests.training.tiny_subject import tiny_subject
from training.attacks import registry
from training.checkpoint import load_tensors
from training.evaluation import survey as module
from training.evaluation.survey import Entry, parse_entry, survey

ENTRIES: list[Entry] = [Entry("perlin"), Entry("sign-pgd"), Entry("sgd", "logit_margin")]
NAMES = ["perlin", "sign-pgd", "sgd logit_margin"]


def _survey(out: Path, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"norm": "linf", "epsilon": 0.15, "seed": 3, "entries": ENTRIES}
    given = options | changes
    return survey(given.pop("subject", tiny_subject()), out, **given)


def _crafted(monkeypatch: pytest.MonkeyPatch, *, stop_after: int = 99) -> list[str]:
    """The names of what is crafted from now on; then the user interrupts."""
    craft, names = module.craft_and_measure, list[str]()

    def watched(*arguments: Any, **options: Any) -> Any:
        if len(names) == stop_after:
            raise KeyboardInterrupt
        names.append(options["method_name"])
        return craft(*arguments, **options)

    monkeypatch.setattr(module, "craft_and_measure", watched)
    return names


def _without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    rows = [{k: v for k, v in row.items() if k != "crafting_seconds"} for row in result["attacks"]]
    return result | {"attacks": rows}


def _wilson(share: float, count: int) -> np.ndarray:
    """Both solutions p of `(share - p)^2 = z^2 p (1 - p) / n`."""
    weight = 1.959963984540054**2 / count
    return np.sort(np.roots([1 + weight, -(2 * share + weight), share**2]).real)


def test_every_figure_can_be_measured_again(tmp_path: Path) -> None:
    subject = tiny_subject()
    result = _survey(tmp_path)
    assert json.loads((tmp_path / "survey.json").read_text()) == result
    made = load_tensors(tmp_path / "perturbations.safetensors")[0]
    assert set(made) == {row["name"] for row in result["attacks"]} == set(NAMES)
    images = everything(subject.judging)
    with torch.no_grad():
        clean = trained_target()(images).argmax(dim=1)
    right = (clean == subject.judging.labels).double().mean()
    assert_close(result["clean_accuracy"], right, FIGURE)
    for row in result["attacks"]:
        perturbation = made[row["name"]]
        with torch.no_grad():
            perturbed = trained_target()((images + perturbation).clamp(0, 1)).argmax(dim=1)
        fooled = float((perturbed != clean).double().mean())
        assert_close(row["fooling_rate"], fooled, FIGURE)
        wrong = (perturbed != subject.judging.labels).double().mean()
        assert_close(row["universal_evasion_rate"], wrong, FIGURE)
        assert_close(row["measured_norm"], perturbation.abs().max(), BALL)
        assert row["measured_norm"] <= 0.15 + BALL.absolute
        assert_close([row["fooling_low"], row["fooling_high"]], _wilson(fooled, 61), INTERVAL)
        assert (row["crafting_pictures"], row["judging_pictures"]) == (60, 61)
        assert row["family"] == registry.method(row["method"]).family
    rates = [row["fooling_rate"] for row in result["attacks"]]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]
    asked = {"norm": "linf", "epsilon": 0.15, "seed": 3, "prn-guard": __version__}
    assert result["request"] == subject.facts() | asked
    assert set(result) >= {"versions", "hardware", "device", "threads"}


def test_a_loss_changes_what_is_crafted(tmp_path: Path) -> None:
    _survey(tmp_path, entries=[Entry("sgd"), Entry("sgd", "logit_margin")])
    made = load_tensors(tmp_path / "perturbations.safetensors")[0]
    assert not torch.equal(made["sgd"], made["sgd logit_margin"])


def test_an_interrupted_survey_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _survey(tmp_path / "whole")
    with monkeypatch.context() as stopped:
        _crafted(stopped, stop_after=2)
        with pytest.raises(KeyboardInterrupt):
            _survey(tmp_path / "parts")
    early = json.loads((tmp_path / "parts" / "survey.json").read_text())
    assert sorted(row["name"] for row in early["attacks"]) == ["perlin", "sign-pgd"]
    with monkeypatch.context() as resumed:
        names = _crafted(resumed)
        result = _survey(tmp_path / "parts")
    assert names == ["sgd"]
    assert _without_seconds(result) == _without_seconds(whole)
    for name in NAMES:
        made = [
            load_tensors(tmp_path / part / "perturbations.safetensors")[0][name]
            for part in ("whole", "parts")
        ]
        assert torch.equal(*made)


def test_nothing_is_crafted_twice_and_rows_of_before_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _survey(tmp_path, entries=ENTRIES[:1])
    names = _crafted(monkeypatch)
    assert _survey(tmp_path, entries=ENTRIES[:1]) == first
    assert names == []
    both = _survey(tmp_path, entries=ENTRIES[1:2])
    assert names == ["sign-pgd"]
    assert sorted(row["name"] for row in both["attacks"]) == ["perlin", "sign-pgd"]
    assert first["attacks"][0] in both["attacks"]


@pytest.mark.parametrize(
    ("fact", "change"),
    [
        ("seed", {"seed": 4}),
        ("epsilon", {"epsilon": 0.1}),
        ("norm", {"norm": "l2"}),
        ("classifier", {"subject": tiny_subject(identity="another")}),
        ("crafting pictures", {"subject": tiny_subject(crafting=50)}),
    ],
)
def test_the_folder_of_another_survey_is_refused(
    tmp_path: Path, fact: str, change: dict[str, Any]
) -> None:
    _survey(tmp_path, entries=ENTRIES[:1])
    before = (tmp_path / "survey.json").read_bytes()
    with pytest.raises(InvalidArgumentError, match=f"a survey with another {fact} .*--restart"):
        _survey(tmp_path, entries=ENTRIES[:1], **change)
    assert (tmp_path / "survey.json").read_bytes() == before
    result = _survey(tmp_path, entries=ENTRIES[:1], restart=True, **change)
    assert [row["name"] for row in result["attacks"]] == ["perlin"]


def test_without_entries_every_method_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {name: registry.METHODS[name] for name in ("sign-pgd", "perlin")}
    monkeypatch.setattr(module, "METHODS", kept)
    result = _survey(tmp_path, entries=None)
    assert {row["name"] for row in result["attacks"]} == set(kept)


def test_a_ball_that_makes_no_sense_is_refused_before_anything(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="divide by 255"):
        _survey(tmp_path / "out", epsilon=10.0)
    assert not (tmp_path / "out").exists()


def test_entries_are_parsed_and_named() -> None:
    assert [parse_entry(text) for text in ("sga", "sga:logit_margin")] == [
        Entry("sga"),
        Entry("sga", "logit_margin"),
    ]
    assert Entry("sga").name == "sga"
    assert Entry("sga", "logit_margin").name == "sga logit_margin"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic", "no attack 'magic'"),
        ("magic:logit_margin", "no attack 'magic'"),
        ("perlin:logit_margin", "the methods with a choice of them sign-pgd"),
        ("sga:hinge", "Losses are cross_entropy"),
    ],
)
def test_entries_that_make_no_sense_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        parse_entry(text)
