"""The tiny guard, loaded and evaluated once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny_guard import Workplace
from training.evaluation import adaptive
from training.evaluation.evaluate import evaluate_guard


def make_attacks_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive, "STEPS", 12)


@dataclass(frozen=True)
class Evaluation:
    out: Path
    metrics: dict[str, Any]


@pytest.fixture
def _short_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    make_attacks_short(monkeypatch)


@pytest.fixture(scope="session")
def evaluation(
    guard_folder: Path, work: Workplace, tmp_path_factory: pytest.TempPathFactory
) -> Evaluation:
    """An evaluation from beginning to end, not to be written to."""
    out = tmp_path_factory.mktemp("evaluated") / "evaluation"
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_attacks_short(monkeypatch)
        return Evaluation(out, evaluate_guard(guard_folder, str(work.images), out))
