"""The whole informed attack on the tiny guard: its result, its resumption, and its strength."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prn_guard.errors import DataError, InvalidArgumentError
from prn_guard.nn.detector import DetectorSpec, build_detector
from prn_guard.nn.guarded import GuardedClassifier
from tests.tolerances import BALL, FIGURE, assert_close
from tests.training.small import pictures, trained_target
from training.attacks.norms import norm_of
from training.checkpoint import load_tensors
from training.datasets import Pictures
from training.evaluation.informed import study
from training.evaluation.informed.attack import attack_guard
from training.evaluation.informed.attacker import knowledge
from training.evaluation.informed.masking import ACCURACY
from training.evaluation.outcomes import answers
from training.guard.folder import load_bank, load_guard
from training.guard.surrogates import ALL_SURROGATES

EPSILON, STEPS = 0.15, 24
FEW = ("expected guard", "rectifier", "evade, weight 1", "rectifier, data-free")
Attack = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def attack(guard_folder: Path, test_set: Pictures) -> Attack:
    """The attack with a few entries; other arguments are changed as told."""

    def run(out: Path, **changes: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "norm": "linf",
            "epsilon": EPSILON,
            "crafting": pictures(120, seed=21),
            "test": test_set,
            "out": out,
            "identity": {"guard": "tiny"},
            "bank_unseen": load_bank(guard_folder).unseen,
            "steps": STEPS,
            "entries": FEW,
        }
        guarded = changes.pop("guarded", None) or load_guard(guard_folder)[0]
        return attack_guard(guarded, **(arguments | changes))

    return run


@pytest.fixture(scope="module")
def whole(attack: Attack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an attack from beginning to end, not to be written to."""
    out = tmp_path_factory.mktemp("informed") / "whole"
    assert attack(out) == _result(out)
    return out


def _result(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "informed.json").read_text()))


def _value(row: dict[str, Any]) -> float:
    return float(row[ACCURACY]["value"])


def _perturbation(out: Path, name: str) -> Tensor:
    return load_tensors(out / "informed.safetensors")[0][name]


def _without_time(result: Any) -> Any:
    if isinstance(result, dict):
        return {key: _without_time(value) for key, value in result.items() if "seconds" not in key}
    return [_without_time(one) for one in result] if isinstance(result, list) else result


def test_everything_demanded_stands_in_the_result(
    whole: Path, guarded: GuardedClassifier, test_set: Pictures
) -> None:
    result = _result(whole)
    assert list(result["attacks"]) == list(FEW)
    for name, row in result["attacks"].items():
        one = _perturbation(whole, f"{name}@1, {STEPS} steps")
        assert float(norm_of(one, "linf")) <= EPSILON + BALL.absolute
        judged = answers(guarded, test_set, one)
        figures = {
            ACCURACY: judged.right(judged.guarded).mean(),
            "rectified_perturbed_accuracy": judged.right(judged.rectified).mean(),
            "undefended_perturbed_accuracy": judged.right(judged.bare).mean(),
            "perturbed_flagged_rate": judged.flagged.mean(),
        }
        for key, oracle in figures.items():
            assert_close(row[key]["value"], oracle, FIGURE)
            assert row[key]["low"] <= row[key]["value"] <= row[key]["high"]
    masking = result["masking"]
    rows = result["attacks"] | result["held_out"] | masking["transfer"] | masking["black_box"]
    assert len(rows) == 4 + 2 + 2 + 2
    assert _value(result["worst"]) == min(map(_value, rows.values()))
    assert result["worst"]["attack"] in rows
    threat = result["threat_model"]
    assert (threat["norm"], threat["epsilon"]) == ("linf", EPSILON)


def test_held_out_perturbations_of_a_larger_ball_are_brought_to_this_one(
    attack: Attack, tmp_path: Path
) -> None:
    result = attack(tmp_path, epsilon=EPSILON / 2, entries=["rectifier"], checks=False)
    assert len(result["held_out"]) == 2
    for row in result["held_out"].values():
        assert_close(row["measured_norm"], EPSILON / 2, BALL)


def test_the_curves_belong_to_the_strongest_ascent(whole: Path) -> None:
    result = _result(whole)
    strongest = result["strongest_ascent"]
    ascents = {name: row for name, row in result["attacks"].items() if "data-free" not in name}
    assert _value(ascents[strongest]) == min(map(_value, ascents.values()))
    steps = result["accuracy_against_steps"][strongest]["rows"]
    assert [row["steps"] for row in steps] == [3, 6, 12, 24]
    assert steps[-1][ACCURACY] == result["attacks"][strongest][ACCURACY]
    radii = result["fooling_against_epsilon"][strongest]["rows"]
    assert [row["epsilon"] for row in radii] == pytest.approx([0.075, 0.15, 0.3, 0.6, 1.0])
    fooled = [row["adaptive"]["value"] for row in radii]
    assert fooled[-1] > fooled[0] + 0.2


def test_an_interrupted_attack_ends_with_the_same_bits(
    attack: Attack, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, asked = study.under, []

    def stop(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return judge(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(study, "under", stop)
        with pytest.raises(KeyboardInterrupt):
            attack(tmp_path)
    before = _result(tmp_path)
    assert list(before["attacks"]) == list(FEW[:2])
    kept = load_tensors(tmp_path / "informed.safetensors")[0]
    assert len(kept) == 3  # crafted, and not yet judged
    resumed = attack(tmp_path)
    assert _without_time(resumed) == _without_time(_result(whole))
    tensors = [load_tensors(one / "informed.safetensors")[0] for one in (whole, tmp_path)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_a_finished_attack_is_not_made_again_and_entries_may_follow(
    attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = attack(tmp_path, entries=FEW[:1], checks=False)
    assert "masking" not in first
    longer = attack(tmp_path, entries=FEW[:2], checks=False)
    assert longer["attacks"][FEW[0]] == first["attacks"][FEW[0]]

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError

    monkeypatch.setattr("training.evaluation.informed.attacker.Crafting.run", refuse)
    assert attack(tmp_path, entries=FEW[:2], checks=False)["attacks"] == longer["attacks"]


def test_another_request_is_refused_or_starts_anew(attack: Attack, tmp_path: Path) -> None:
    options = {"entries": FEW[:1], "checks": False}
    attack(tmp_path, **options)
    with pytest.raises(InvalidArgumentError, match=r"another steps \(24 there, 5 now\)"):
        attack(tmp_path, steps=5, **options)
    result = attack(tmp_path, steps=5, restart=True, **options)
    assert result["request"]["steps"] == 5
    assert len(load_tensors(tmp_path / "informed.safetensors")[0]) == 1


def _no_defense() -> GuardedClassifier:
    """The rectifier changes nothing, and nothing is flagged."""
    guarded = GuardedClassifier(
        trained_target(), nn.Identity(), build_detector(DetectorSpec(), 12, 12)
    )
    guarded.detector.threshold.fill_(torch.inf)
    return guarded


def test_a_guard_without_a_defense_falls_as_far_as_the_bare_target(
    attack: Attack, tmp_path: Path
) -> None:
    names = [*ALL_SURROGATES.keys() - {"bare target"}, "evade, weight 0.1", "evade, weight 10"]
    result = attack(
        tmp_path, guarded=_no_defense(), test=pictures(200, seed=5), entries=names, steps=48
    )
    bare = min(map(_value, result["masking"]["transfer"].values()))
    assert bare < 0.6
    assert result["attacks"].keys() == set(names)
    for name, row in result["attacks"].items():
        assert row[ACCURACY] == row["undefended_perturbed_accuracy"]
        assert row["perturbed_flagged_rate"]["value"] == 0
        assert _value(row) <= bare + 0.1, name
    assert _value(result["worst"]) <= bare
    assert result["masking"]["verdict"]["ordered"]


@pytest.mark.usefixtures("_gradients_hidden")
def test_hidden_gradients_are_told(attack: Attack, tmp_path: Path) -> None:
    result = attack(tmp_path, guarded=_no_defense(), entries=["rectifier"], steps=60)
    verdict = result["masking"]["verdict"]
    assert not verdict["white_box_at_least_transfer"]
    assert not verdict["ordered"]
    assert _value(result["worst"]) < _value(result["attacks"]["rectifier"])


@pytest.fixture
def _gradients_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """The surrogate has the right answers and a gradient of noise."""
    noise = torch.Generator().manual_seed(0)

    def blind(guarded: GuardedClassifier) -> Callable[[Tensor], Tensor]:
        def classify(images: Tensor) -> Tensor:
            logits = guarded.target(images.detach())
            moved = (images - images.detach()).flatten(1)  # zero, and differentiable
            mixing = torch.randn(moved.shape[1], logits.shape[1], generator=noise)
            return logits + moved @ mixing

        return classify

    monkeypatch.setitem(ALL_SURROGATES, "rectifier", blind)


def test_without_a_bank_the_warm_start_is_left_out(attack: Attack, tmp_path: Path) -> None:
    names = [FEW[0], "expected guard, from held-out"]
    result = attack(tmp_path, bank_unseen=None, entries=names, checks=False)
    assert list(result["attacks"]) == names[:1]
    assert result["held_out"] == {}
    with pytest.raises(InvalidArgumentError, match="starts from a held-out perturbation"):
        attack(tmp_path, bank_unseen=None, entries=names[1:])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"epsilon": 10.0}, InvalidArgumentError, "epsilon is 10"),
        ({"steps": 0}, InvalidArgumentError, "steps is 0"),
        ({"entries": ["magic"]}, InvalidArgumentError, "no attack 'magic'"),
        ({"crafting": pictures(4)}, DataError, "has 4 pictures; expected at least 5"),
        ({"test": pictures(120, seed=21)}, DataError, "are those that the attacker crafts on"),
    ],
)
def test_what_makes_no_sense_is_refused(
    attack: Attack, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        attack(tmp_path, **changes)


def test_the_attackers_pictures_are_parted() -> None:
    parted = knowledge(
        _no_defense(), pictures(120, seed=21), norm="linf", precision="float32", seed=0, starts=None
    )
    assert (len(parted.watched), len(parted.crafting)) == (24, 96)
    every = torch.cat(
        [one.batch(torch.arange(len(one))).flatten(1) for one in (parted.watched, parted.crafting)]
    )
    assert len(np.unique(every.numpy(), axis=0)) == 120
