"""`bank` as a function: figures that can be measured again, and searches that go on."""

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from prn_guard.errors import InvalidArgumentError
from tests.tolerances import BALL, COSINE, FIGURE, assert_close
from tests.training.small import everything, pictures, trained_target
from tests.training.tiny_guard import partly_mislabelled
from tests.training.tiny_subject import tiny_subject
from training.attacks.engine import Schedule
from training.checkpoint import load_tensors
from training.perturbations import command, search
from training.perturbations.bank import Bank, BankCriteria
from training.perturbations.command import BankRequest, make_bank

CRITERIA = BankCriteria(members=4, held_out=1, least_fooling=0.2, most_cosine=0.8)
TEST = partly_mislabelled(pictures(83, seed=9))


def _request(**changes: Any) -> BankRequest:
    fields: dict[str, Any] = {
        "subject": tiny_subject(),
        "norm": "linf",
        "epsilon": 0.2,
        "seed": 0,
        "criteria": CRITERIA,
        "schedule": Schedule(steps=6),
    }
    return BankRequest(**(fields | changes))


OTHERS: dict[str, dict[str, Any]] = {
    "classifier": {"subject": tiny_subject(identity="another")},
    "crafting pictures": {"subject": tiny_subject(crafting=50)},
    "norm": {"norm": "l2", "epsilon": 0.2},
    "epsilon": {"epsilon": 0.19},
    "seed": {"seed": 1},
    "members": {"criteria": dataclasses.replace(CRITERIA, members=3)},
    "held out": {"criteria": dataclasses.replace(CRITERIA, held_out=2)},
    "least fooling rate": {"criteria": dataclasses.replace(CRITERIA, least_fooling=0.3)},
    "largest cosine": {"criteria": dataclasses.replace(CRITERIA, most_cosine=0.5)},
    "steps": {"schedule": Schedule(steps=7)},
    "together": {"together": 2},
}


def _fooling(of: Any, perturbation: torch.Tensor) -> float:
    images = everything(of)
    with torch.no_grad():
        clean = trained_target()(images).argmax(dim=1)
        perturbed = trained_target()((images + perturbation).clamp(0, 1)).argmax(dim=1)
    return float((clean != perturbed).double().mean())


def _assert_same_file(first: Path, second: Path) -> None:
    (tensors, facts), (others, other_facts) = load_tensors(first), load_tensors(second)
    assert torch.equal(tensors["perturbations"], others["perturbations"])
    assert facts == other_facts


def test_every_figure_can_be_measured_again(tmp_path: Path) -> None:
    out = tmp_path / "bank.safetensors"
    result = make_bank(_request(), out, test=TEST)
    stack = load_tensors(out)[0]["perturbations"]
    assert (result["members"], result["held_out"], len(stack)) == (4, 1, 4)
    assert not result["relaxed"]
    judging = _request().subject.judging
    assert_close(result["fooling_rates"], [_fooling(judging, one) for one in stack], FIGURE)
    rates = [_fooling(TEST, one) for one in stack]
    assert_close(result["test_fooling_rates"], rates, FIGURE)
    assert_close(result["least_test_fooling_rate"], min(rates), FIGURE)
    assert_close(result["median_test_fooling_rate"], statistics.median(rates), FIGURE)
    with torch.no_grad():
        right = trained_target()(everything(TEST)).argmax(dim=1) == TEST.labels
    assert_close(result["test_clean_accuracy"], right.double().mean(), FIGURE)
    assert result["test_pictures"] == 83
    flat = stack.flatten(1).double().numpy()
    cosines = [
        abs(a @ b) / ((a @ a) * (b @ b)) ** 0.5
        for number, a in enumerate(flat)
        for b in flat[:number]
    ]
    assert_close(result["largest_cosine"], max(cosines), COSINE)
    assert max(cosines) <= CRITERIA.most_cosine
    assert float(stack.abs().max()) <= 0.2 + BALL.absolute
    tried = result["rejected_fooling"] + result["rejected_cosine"] + result["members"]
    assert result["candidates"] == tried
    assert [path.name for path in tmp_path.iterdir()] == ["bank.safetensors"]


def test_test_pictures_decide_nothing(tmp_path: Path) -> None:
    with_test = make_bank(_request(), tmp_path / "a.safetensors", test=TEST)
    without = make_bank(_request(), tmp_path / "b.safetensors")
    assert not [name for name in without if "test" in name]
    assert {name: with_test[name] for name in without if name != "file"} == {
        name: value for name, value in without.items() if name != "file"
    }
    _assert_same_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


def test_a_finished_bank_is_not_searched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bank.safetensors"
    first = make_bank(_request(), out)

    def never(*_: object, **__: object) -> Bank:
        raise AssertionError

    monkeypatch.setattr(command, "craft_bank", never)
    again = make_bank(_request(), out, test=TEST)
    assert {name: again[name] for name in first} == first
    assert again["test_pictures"] == 83


def _stop_after(monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    crafted, left = search.stochastic_gradient_uaps, [rounds]

    def stopping(*arguments: Any, **options: Any) -> torch.Tensor:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return crafted(*arguments, **options)

    monkeypatch.setattr(search, "stochastic_gradient_uaps", stopping)


def test_an_interrupted_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_bank(_request(), tmp_path / "whole.safetensors")
    out = tmp_path / "bank.safetensors"
    with monkeypatch.context() as stopped:
        _stop_after(stopped, 2)
        with pytest.raises(KeyboardInterrupt):
            make_bank(_request(), out)
    assert not out.exists()
    with pytest.raises(InvalidArgumentError, match=r"another seed \(0 there, 1 now\)"):
        make_bank(_request(seed=1), out)
    with monkeypatch.context() as counted:
        _stop_after(counted, whole["candidates"] - 2)
        assert make_bank(_request(), out) == whole | {"file": str(out)}
    _assert_same_file(out, tmp_path / "whole.safetensors")
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interrupted_search_can_be_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bank.safetensors"
    with monkeypatch.context() as stopped:
        _stop_after(stopped, 1)
        with pytest.raises(KeyboardInterrupt):
            make_bank(_request(), out)
    result = make_bank(_request(seed=1), out, restart=True)
    assert result == make_bank(_request(seed=1), tmp_path / "b.safetensors") | {"file": str(out)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished bank; not to be written to."""
    out = tmp_path_factory.mktemp("bank") / "bank.safetensors"
    make_bank(_request(), out)
    return out


@pytest.mark.parametrize("fact", list(OTHERS))
def test_the_bank_of_another_request_is_refused(finished: Path, fact: str) -> None:
    before = finished.read_bytes()
    with pytest.raises(InvalidArgumentError, match=f"a bank with another .*{fact} .*--restart"):
        make_bank(_request(**OTHERS[fact]), finished)
    assert finished.read_bytes() == before


def test_restart_replaces_the_bank_of_another_request(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "bank.safetensors"
    out.write_bytes(finished.read_bytes())
    result = make_bank(_request(seed=1), out, restart=True)
    assert result["request"]["seed"] == 1
    assert not torch.equal(Bank.load(out).perturbations, Bank.load(finished).perturbations)


@pytest.mark.parametrize(
    ("change", "message"), [({"epsilon": 51.0}, "divide by 255"), ({"norm": "l1"}, "norm is 'l1'")]
)
def test_a_ball_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        _request(**change)
