"""Fits that must not end in a guard."""

import dataclasses
from pathlib import Path
from typing import NoReturn

import pytest

from prn_guard.errors import DataError, TargetError
from tests.training.tiny_guard import Workplace
from training.guard import crafting
from training.guard.fit import fit
from training.targets import load_target


def _stop(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


COUNTING = """

class Counting(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images):
        self.seen += len(images)
        return self.network(images)


def counting():
    target = build()
    torch.manual_seed(0)
    return Target(Counting(build().classifier), target.spec)
"""


@pytest.mark.usefixtures("_quick_work")
def test_a_target_that_changes_in_evaluation_mode_is_refused_even_after_a_restart(
    work: Workplace, tmp_path: Path
) -> None:
    file = tmp_path / "counting.py"
    file.write_text("import torch\n" + work.factory.read_text() + COUNTING)
    for _ in range(2):  # the second time every stage but the last is done already
        loaded = load_target(f"{file}:counting")
        request = dataclasses.replace(work.request(), loaded=loaded)
        with pytest.raises(TargetError, match="changed while the guard was fitted"):
            fit(request, tmp_path / "guard")
        assert not (tmp_path / "guard" / "guard.json").exists()


def test_too_few_calibration_pictures_are_noticed_before_the_work(
    work: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crafting, "craft_bank", _stop)
    with pytest.raises(DataError, match=r"36 clean pictures are too few .* at least 99"):
        fit(work.request(false_positive_rate=0.01), tmp_path / "guard")
