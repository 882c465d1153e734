"""The rectifier's stage: its files, what it returns, and going on between any two of them."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import nn

from prn_guard.nn.target import state_digest
from tests.tolerances import JOINT_SCORE, assert_close
from tests.training.small import SHAPE, everything
from tests.training.tiny_guard import EPSILON, SPEC, Workplace
from training.checkpoint import load_tensors, save_tensors
from training.guard import rectifier_stage
from training.guard import request as requests
from training.guard.alternation import Rounds
from training.guard.guard_attack import PER_ROUND, GuardAttack
from training.guard.recipe import Recipe
from training.guard.rectifier_stage import Trained, train
from training.guard.request import FitRequest
from training.guard.splits import Splits, split_pictures
from training.perturbations.bank import Bank
from training.processes import Processes

RECIPE = Recipe(
    epochs=2, learning_rate=0.003, batch_size=48, checkpoint_every=2, detection=1.0,
    adversarial_share=0.4, rounds=2, round_iterations=2, attack_steps=2,
)  # fmt: skip
Train = Callable[[Path, Recipe], Trained]


def _stop(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


def _perturbations(out: Path) -> None:
    """What the stages before leave."""
    made = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1)).sign() * EPSILON
    out.mkdir(exist_ok=True)
    Bank(
        perturbations=made[:3], fooling_rates=(0.9,) * 3, norm="linf", epsilon=EPSILON,
        candidates=3, rejected_fooling=0, rejected_cosine=0, relaxed=False, held_out=1,
    ).save(out / "bank.safetensors")  # fmt: skip
    save_tensors(out / "synthetic.safetensors", {"perturbations": made[3:]}, {"facts": {}})


@pytest.fixture(scope="module")
def splits(work: Workplace) -> Splits:
    return split_pictures(work.request().training.pictures, seed=5)


@pytest.fixture
def trained(work: Workplace, splits: Splits, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train in a folder by a recipe."""
    monkeypatch.setattr(requests, "default_spec", lambda *_: SPEC)

    def run(out: Path, recipe: Recipe = RECIPE) -> Trained:
        monkeypatch.setattr(FitRequest, "recipe", lambda _: recipe)
        _perturbations(out)
        return train(work.request(), splits, out, Processes())

    return run


def _same(one: Trained, other: Trained) -> None:
    assert state_digest(one.rectifier) == state_digest(other.rectifier)
    assert one.joint is not None
    assert other.joint is not None
    assert state_digest(one.joint) == state_digest(other.joint)
    assert torch.equal(one.found, other.found)
    assert one.attempts == other.attempts


def test_it_leaves_rectifier_and_found_and_its_state(
    trained: Train, splits: Splits, tmp_path: Path
) -> None:
    found = trained(tmp_path / "guard", RECIPE)
    names = {str(path.relative_to(tmp_path / "guard")) for path in (tmp_path / "guard").rglob("*")}
    assert names == {
        "bank.safetensors", "synthetic.safetensors", "rectifier.safetensors", "found.safetensors",
        "state", "state/rectifier.safetensors", "state/rounds.safetensors",
        "state/joint.safetensors",
    }  # fmt: skip
    tensors, facts = load_tensors(tmp_path / "guard" / "found.safetensors")
    assert torch.equal(tensors["perturbations"], found.found)
    assert found.found.shape == (2 * PER_ROUND, *SHAPE)
    assert facts["attempts"] == found.attempts
    assert set(found.attempts[0]) == {"round", "attack", "kept", "flagged"}
    weights, _ = load_tensors(tmp_path / "guard" / "rectifier.safetensors")
    kept, _ = load_tensors(tmp_path / "guard" / "state" / "rounds.safetensors")
    for name, value in found.rectifier.state_dict().items():
        assert torch.equal(value, weights[name])
        assert torch.equal(value, kept[f"module.0.{name}"])
    assert found.joint is not None
    assert not any(module.training for module in (*found.rectifier.modules(), found.joint))
    images = everything(splits.judging)[:4]
    with torch.no_grad():
        removed = images - found.rectifier(images)
        assert_close(found.joint.detector()(removed), found.joint(removed), JOINT_SCORE)


PLACES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "before the first iteration": lambda patch: patch.setattr(
        rectifier_stage, "fit_rectifier", _stop
    ),
    "before the rounds": lambda patch: patch.setattr(Rounds, "run", _stop),
    "in the first attack": lambda patch: patch.setattr(GuardAttack, "run", _stop),
    "before any file": lambda patch: patch.setattr(rectifier_stage, "_save", _stop),
    "after the joint detector's": lambda patch: patch.setattr(
        rectifier_stage, "save_tensors", _stop
    ),
    "before the rectifier's": lambda patch: patch.setattr(
        rectifier_stage, "save_module", functools.partial(_unless_joint, save=_save_module())
    ),
    "after all of them": lambda patch: patch.setattr(rectifier_stage, "load_module", _stop),
}


def _save_module() -> Callable[[Path, nn.Module], None]:
    return rectifier_stage.save_module


def _unless_joint(path: Path, module: nn.Module, *, save: Callable[..., None]) -> None:
    if path.name != "joint.safetensors":
        raise KeyboardInterrupt
    save(path, module)


@pytest.mark.parametrize("place", list(PLACES))
def test_wherever_it_is_killed_it_ends_bit_by_bit_alike(
    trained: Train, tmp_path: Path, place: str
) -> None:
    expected = trained(tmp_path / "straight", RECIPE)
    out = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        PLACES[place](patch)
        with pytest.raises(KeyboardInterrupt):
            trained(out, RECIPE)
    assert (out / "rectifier.safetensors").exists() == (place == "after all of them")
    _same(trained(out, RECIPE), expected)
    for name in ("rectifier", "found", "state/joint"):
        one, other = (
            load_tensors(folder / f"{name}.safetensors") for folder in (out, tmp_path / "straight")
        )
        assert one[1] == other[1]
        assert all(torch.equal(value, other[0][key]) for key, value in one[0].items())


def test_a_finished_stage_is_read_and_not_repeated(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained(tmp_path / "guard", RECIPE)
    for name in ("fit_rectifier", "Rounds", "_save"):
        monkeypatch.setattr(rectifier_stage, name, _stop)
    _same(trained(tmp_path / "guard", RECIPE), expected)


@pytest.mark.parametrize("detection", [0.0, 1.0])
def test_without_rounds_nothing_is_found_and_that_is_written(
    trained: Train, tmp_path: Path, detection: float
) -> None:
    found = trained(tmp_path, replace(RECIPE, detection=detection, rounds=0))
    assert (found.joint is not None) == bool(detection)
    assert (tmp_path / "state" / "joint.safetensors").exists() == bool(detection)
    assert not (tmp_path / "state" / "rounds.safetensors").exists()
    tensors, facts = load_tensors(tmp_path / "found.safetensors")
    assert tensors["perturbations"].shape == found.found.shape == (0, *SHAPE)
    assert facts["attempts"] == found.attempts == []


def test_rounds_judge_by_pictures_that_are_not_trained_on(
    trained: Train, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    rounds = rectifier_stage.Rounds
    monkeypatch.setattr(
        rectifier_stage, "Rounds", lambda **given: seen.append(given) or rounds(**given)
    )
    monkeypatch.setattr(rectifier_stage, "JUDGING_PICTURES", 10)
    trained(tmp_path, RECIPE)
    judging = everything(seen[0]["judging"])
    assert len(judging) == 10
    of = everything(splits.judging).flatten(1)
    assert all(bool((one == of).all(dim=1).any()) for one in judging.flatten(1))
    assert torch.equal(everything(seen[0]["pictures"]), everything(splits.rectifier))
    assert len(seen[0]["bank"]) == 4  # two of the bank, two synthetic
