"""Networks that benchmarks harden are trained once, and never taken for those of another recipe."""

import copy
import dataclasses
from pathlib import Path

import pytest

from benchmarks import hardened as module
from benchmarks.hardened import Row, hardened, origin
from prn_guard.errors import InvalidArgumentError
from prn_guard.nn.target import Target, state_digest
from tests.training.small import pictures, trained_target
from training.datasets import NamedPictures
from training.hardening import command
from training.hardening.recipe import Recipe

RECIPE = Recipe(epochs=1, batch_size=20, learning_rate=0.01)
ROWS = {
    "first": Row(method="plain", recipe=RECIPE),
    "second": Row(method="uat-low-cost", recipe=RECIPE, start="first", epsilon=0.05),
}


def _fresh() -> Target:
    return copy.deepcopy(trained_target())


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> NamedPictures:
    monkeypatch.setattr(module, "commit", lambda: "abc1234")
    return NamedPictures("small", pictures(100, seed=9))


def _made(name: str, rows: dict[str, Row], training: NamedPictures, folder: Path) -> Target:
    return hardened(name, rows, _fresh, training, folder, norm="linf", epsilon=0.1, seed=0)


def test_a_row_starts_from_the_one_that_it_names(training: NamedPictures, tmp_path: Path) -> None:
    second = _made("second", ROWS, training, tmp_path)
    first = _made("first", ROWS, training, tmp_path)
    made = origin(tmp_path / "second")
    assert made["request"]["target weights"] == state_digest(first)
    assert made["request"]["epsilon"] == 0.05
    assert made["commit"] == "abc1234"
    assert state_digest(second) not in {state_digest(first), state_digest(_fresh())}


def test_what_is_trained_is_not_trained_again(
    training: NamedPictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state_digest(_made("first", ROWS, training, tmp_path))

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(command, "train", never)
    assert state_digest(_made("first", ROWS, training, tmp_path)) == before


def test_a_row_whose_recipe_changed_is_refused(training: NamedPictures, tmp_path: Path) -> None:
    _made("first", ROWS, training, tmp_path)
    longer = dataclasses.replace(ROWS["first"], recipe=dataclasses.replace(RECIPE, epochs=2))
    with pytest.raises(InvalidArgumentError, match=r"another epochs \(1 there, 2 now\)"):
        _made("first", {"first": longer}, training, tmp_path)
