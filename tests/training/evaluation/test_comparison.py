"""The measurement behind `compare`: its figures, and that nothing is measured twice."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prn_guard.errors import ArtifactError, InvalidArgumentError
from tests.training.small import pictures, trained_target
from tests.training.tiny_guard import partly_mislabelled
from training.attacks.job import AttackJob
from training.evaluation import comparison, universal_robustness
from training.evaluation.comparison import PARTS, RESULTS, Network, compare
from training.evaluation.jacobian_geometry import balanced, jacobian_geometry
from training.evaluation.robustness import rho_adv
from training.evaluation.universal_curves import evasion_over_epsilon, success_over_targets

CRAFTING, JUDGING = pictures(60, seed=2), partly_mislabelled(pictures(80, seed=3))


def _halved(images: torch.Tensor) -> torch.Tensor:
    """The trained network on pictures of half the contrast: Jacobians are half as long."""
    return trained_target()(0.5 * images + 0.25)


def _networks(*names: str) -> list[Network]:
    known = {"trained": trained_target(), "halved": _halved}
    return [Network(name=one, classifier=known[one], identity=f"digest of {one}") for one in names]


def _compare(out: Path, *names: str, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "norm": "linf", "epsilon": 0.1, "seed": 3, "rate": 0.6, "pictures": 30, "steps": 3,
        "probes": 3, "universal_steps": 3,
    }  # fmt: skip
    networks = _networks(*(names or ("trained", "halved")))
    return compare(networks, CRAFTING, JUDGING, out, **(options | changes))


def _without_seconds(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_seconds(one) for key, one in content.items() if key != "seconds"}
    return content


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the measurements that are made from now on."""
    made: list[str] = []
    names = (
        "jacobian_geometry", "rho_adv", "evasion_over_epsilon", "success_over_targets",
        "search_universal_robustness",
    )  # fmt: skip
    for name in names:
        measure = getattr(comparison, name)

        def noted(*args: Any, name: str = name, measure: Any = measure, **options: Any) -> Any:
            made.append(name)
            return measure(*args, **options)

        monkeypatch.setattr(comparison, name, noted)
    return made


def test_every_part_is_what_its_measure_says(tmp_path: Path) -> None:
    result = _compare(tmp_path, epsilons=[0.05])
    assert json.loads((tmp_path / RESULTS).read_text()) == result
    assert list(result["networks"]) == ["trained", "halved"]
    some = balanced(JUDGING, 30, seed=3)
    for network in _networks("trained", "halved"):
        measured = _without_seconds(result["networks"][network.name])
        assert set(measured) == {"identity", *PARTS}
        right = network.classifier(JUDGING.batch(torch.arange(80))).argmax(dim=1) == JUDGING.labels
        accuracy = measured["accuracy"]
        assert accuracy["clean_accuracy"]["value"] == pytest.approx(float(right.double().mean()))
        assert accuracy["test_error"]["value"] == pytest.approx(float((~right).double().mean()))
        assert accuracy["test_error"]["n"] == 80
        assert measured["jacobian"] == jacobian_geometry(network.classifier, some, seed=3)
        assert measured["rho-adv"] == rho_adv(network.classifier, some, seed=3)
        for part, curve in (("evasion", evasion_over_epsilon), ("targeted", success_over_targets)):
            points = curve(
                network.classifier, CRAFTING, JUDGING, norm="linf", epsilons=[0.05, 0.1], seed=3,
                steps=3,
            )  # fmt: skip
            assert list(measured[part].values()) == points
        assert len(measured["universal-robustness"]["probes"]) == 3
    assert (tmp_path / "jacobian-similarity.png").is_file()


def test_an_interrupted_comparison_measures_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _compare(tmp_path / "whole")
    craft, crafted = universal_robustness.craft, []

    def cut_off(name: str, job: Any) -> Any:
        crafted.append(job.epsilon)
        if len(crafted) == 5:
            raise KeyboardInterrupt
        return craft(name, job)

    monkeypatch.setattr(universal_robustness, "craft", cut_off)
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        _compare(out)
    kept = json.loads((out / RESULTS).read_text())["networks"]
    assert set(kept["trained"]) == {"identity", *PARTS}
    assert set(kept["halved"]) == {"identity", *PARTS} - {"universal-robustness"}
    made = _counted(monkeypatch)
    assert _without_seconds(_compare(out)) == _without_seconds(whole)
    assert made == ["search_universal_robustness"]
    # Three radii of the first network, one of the second; the next was tried again.
    assert len(crafted) == 5 + 2
    made.clear()
    _compare(out)
    assert made == []


def test_what_is_added_costs_no_more_than_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _counted(monkeypatch)
    first = _compare(tmp_path, "trained", parts=["evasion"])
    assert made == ["evasion_over_epsilon"]
    assert set(first["networks"]["trained"]) == {"identity", "evasion"}
    made.clear()
    second = _compare(tmp_path, "trained", parts=["evasion", "jacobian"], epsilons=[0.05])
    assert made == ["jacobian_geometry", "evasion_over_epsilon"]
    made.clear()
    third = _compare(tmp_path, "halved", "trained", parts=["jacobian"], epsilon=0.05)
    assert made == ["jacobian_geometry"]
    assert list(third["networks"]) == ["halved", "trained"]
    assert third["epsilon"] == 0.05
    assert third["networks"]["trained"] == second["networks"]["trained"]
    assert set(json.loads((tmp_path / RESULTS).read_text())["networks"]) == {"trained", "halved"}


def test_another_comparison_is_refused_and_thrown_away_when_wished(tmp_path: Path) -> None:
    _compare(tmp_path, "trained", parts=["accuracy"])
    before = (tmp_path / RESULTS).read_text()
    with pytest.raises(InvalidArgumentError, match=r"another seed \(3 there, 4 now\).*--restart"):
        _compare(tmp_path, "trained", parts=["accuracy"], seed=4)
    other = Network(name="trained", classifier=_halved, identity="digest of another")
    with pytest.raises(InvalidArgumentError, match=r"another trained \(digest of trained there"):
        compare([other], CRAFTING, JUDGING, tmp_path, norm="linf", epsilon=0.1, seed=3, rate=0.6,
                pictures=30, steps=3, probes=3, universal_steps=3)  # fmt: skip
    assert (tmp_path / RESULTS).read_text() == before
    again = _compare(tmp_path, "halved", parts=["accuracy"], seed=4, restart=True)
    assert set(again["networks"]) == {"halved"}
    (tmp_path / RESULTS).write_text('{"fooling_rate": 0.9}')
    with pytest.raises(ArtifactError, match="no result file of this command"):
        _compare(tmp_path, "trained", parts=["accuracy"], restart=True)


def test_a_comparison_that_begins_anew_searches_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crafted: list[str] = []
    craft = universal_robustness.craft

    def counted(name: str, job: AttackJob) -> Tensor:
        crafted.append(name)
        return craft(name, job)

    monkeypatch.setattr(universal_robustness, "craft", counted)
    first = _compare(tmp_path, "trained", parts=["universal-robustness"])
    again = _compare(tmp_path, "trained", parts=["universal-robustness"], restart=True)
    assert crafted == ["sign-pgd"] * 6
    assert _without_seconds(again) == _without_seconds(first)


def test_a_network_that_is_wrong_by_itself_needs_no_perturbation(tmp_path: Path) -> None:
    result = _compare(tmp_path, parts=["universal-robustness"], rate=0.05)
    found = result["networks"]["halved"]["universal-robustness"]
    assert found["epsilon"] == 0
    assert found["clean_error"] > 0.05


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (("trained", "trained"), {}, "each with a name of its own"),
        (("trained",), {"parts": ["accuracy", "beauty"]}, "no part 'beauty'"),
        (("trained",), {"parts": []}, "no part to measure"),
        (("trained",), {"epsilons": [8.0]}, "epsilon is 8"),
        (("trained",), {"pictures": 0}, "count is 0"),
    ],
)
def test_senseless_requests_are_refused_before_anything_is_measured(
    tmp_path: Path, names: tuple[str, ...], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        _compare(tmp_path, *names, **changes)
    assert not (tmp_path / RESULTS).exists() or "networks" not in json.loads(
        (tmp_path / RESULTS).read_text()
    )
