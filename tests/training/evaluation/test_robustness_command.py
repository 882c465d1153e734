"""The measurement behind `robustness`: its figures, and that an interrupted one goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prn_guard.errors import ArtifactError, InvalidArgumentError
from tests.training.small import SHAPE, VALUES, everything, pictures, trained_target
from training.attacks.per_image import PER_IMAGE_ATTACKS, per_image_attack
from training.datasets import evenly_spaced
from training.evaluation import robustness_command, universal_robustness
from training.evaluation.metrics import wilson_interval
from training.evaluation.per_image_accuracy import L0_SHARE, accuracy_under, reference_ball
from training.evaluation.robustness_command import measure_robustness

CRAFTING, JUDGING = pictures(60, seed=2), pictures(80, seed=3)


def _measure(out: Path, *, attacks: tuple[str, ...] = ("fgsm", "jsma"), seed: int = 0) -> Any:
    return measure_robustness(
        trained_target(),
        CRAFTING,
        JUDGING,
        out,
        target="tiny",
        norm="linf",
        epsilon=0.1,
        seed=seed,
        rate=0.6,
        universal_steps=5,
        probes=4,
        pictures_per_attack=60,
        attacks=attacks,
    )


def _without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in part.items() if key != "seconds"}
        for name, part in result.items()
    }


def test_every_figure_is_written_with_its_n_and_interval(tmp_path: Path) -> None:
    out = tmp_path / "robustness.json"
    result = _measure(out, attacks=tuple(PER_IMAGE_ATTACKS))
    assert json.loads(out.read_text()) == result
    clean = result["clean_accuracy"]
    assert (clean["n"], clean["value"] > 0.95) == (80, True)
    for name in PER_IMAGE_ATTACKS:
        part = result[f"under {name}"]
        figure = part["accuracy"]
        assert figure["n"] == (50 if name == "jsma" else 60)
        assert (figure["low"], figure["high"]) == wilson_interval(figure["value"], figure["n"])
        assert figure["value"] < 0.5
        assert (part["norm"], part["epsilon"]) == reference_ball(name, "linf", 0.1, SHAPE)
        assert part["steps"] == PER_IMAGE_ATTACKS[name].steps
    assert result["rho_adv"]["rho_adv"]["n"] == 60
    universal = result["universal_robustness"]
    assert (universal["bound"], universal["n"], len(universal["probes"])) == ("upper", 80, 4)
    assert universal["not_reached"] < universal["epsilon"]
    assert set(result["setting"]["versions"]) >= {"torch"}


def test_an_interrupted_measurement_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _measure(tmp_path / "whole.json")
    out, craft, crafted = tmp_path / "cut.json", universal_robustness.craft, []

    def cut_off(name: str, job: Any) -> Any:
        crafted.append(job.epsilon)
        if len(crafted) == 3:
            raise KeyboardInterrupt
        return craft(name, job)

    monkeypatch.setattr(universal_robustness, "craft", cut_off)
    with pytest.raises(KeyboardInterrupt):
        _measure(out)
    kept = json.loads(out.read_text())
    assert set(kept) == {"request", "clean_accuracy", "under fgsm", "under jsma", "rho_adv"}
    monkeypatch.setattr(robustness_command, "accuracy_under", None)
    again = _measure(out)
    assert _without_seconds(again) == _without_seconds(whole)
    # Two radii were kept, the third was tried again, and the fourth followed.
    assert len(crafted) == 5
    assert again["under fgsm"] == kept["under fgsm"]
    assert _measure(out) == again


def test_another_request_starts_anew_and_a_foreign_file_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    first = _measure(out, attacks=())
    other = _measure(out, attacks=(), seed=1)
    assert other["request"] != first["request"]
    assert other["universal_robustness"] != first["universal_robustness"]
    out.write_text('{"fooling_rate": 0.9}')
    with pytest.raises(ArtifactError, match="no result file of this command"):
        _measure(out)
    assert out.read_text() == '{"fooling_rate": 0.9}'


def test_pictures_misclassified_when_clean_count_as_wrong_and_are_not_attacked() -> None:
    some = pictures(40, seed=3)
    target = trained_target()
    clean = target(everything(some)).argmax(dim=1)
    some.labels[::4] = (clean[::4] + 1) % 3
    right = clean == some.labels
    found = accuracy_under(
        "fgsm", target, some, norm="linf", epsilon=0.02, generator=torch.Generator()
    )["accuracy"]
    perturbed = per_image_attack(
        "fgsm",
        target,
        everything(some)[right],
        some.labels[right],
        norm="linf",
        epsilon=0.02,
        generator=torch.Generator(),
    )
    survived = int((target(perturbed).argmax(dim=1) == some.labels[right]).sum())
    assert 0 < survived <= int(right.sum()) <= 30
    assert found["value"] == pytest.approx(survived / 40)


def test_balls_of_attacks_that_know_another_norm() -> None:
    assert reference_ball("pgd", "l2", 2.0, SHAPE) == ("l2", 2.0)
    assert reference_ball("deepfool", "linf", 0.1, SHAPE) == ("l2", 0.1 * VALUES**0.5)
    assert reference_ball("square", "l2", 2.4, SHAPE) == ("linf", 2.4 / VALUES**0.5)
    assert reference_ball("jsma", "linf", 0.1, SHAPE) == ("l0", L0_SHARE)


def test_some_pictures_are_spread_over_all() -> None:
    some = evenly_spaced(JUDGING, 4)
    assert torch.equal(some.labels, JUDGING.labels[[0, 20, 40, 60]])
    assert len(evenly_spaced(JUDGING, 500)) == 80


def test_options_are_checked_before_anything_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    with pytest.raises(InvalidArgumentError, match="no per-image attack 'cw'"):
        _measure(out, attacks=("fgsm", "cw"))
    assert not out.exists()
