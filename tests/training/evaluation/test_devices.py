"""Every measurement of a guard goes to the device that is asked for, the target laid out for it."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
import torch

from prn_guard.nn.target import Target
from tests.commands import Run, assert_refused
from tests.training.tiny_guard import Workplace
from training.evaluation import evaluate, transfer_command
from training.evaluation.informed import command


@pytest.mark.parametrize(
    ("module", "measure"),
    [
        (evaluate, evaluate.evaluate_guard),
        (transfer_command, transfer_command.transfer),
        (command, command.attack_guard_folder),
    ],
)
def test_the_target_is_laid_out_on_the_device(
    guard_folder: Path,
    work: Workplace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    measure: Callable[..., Any],
) -> None:
    asked = []

    def stop(target: Target, device: torch.device) -> NoReturn:
        asked.append((type(target), device))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "for_attacks", stop)
    with pytest.raises(KeyboardInterrupt):
        measure(guard_folder, str(work.images), tmp_path, device=torch.device("meta"))
    assert asked == [(Target, torch.device("meta"))]


@pytest.mark.parametrize("name", ["evaluate", "transfer", "attack-guard", "assess"])
def test_a_gpu_that_is_not_there_is_refused(
    run: Run,
    guard_folder: Path,
    work: Workplace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "out"
    ended = run(name, guard_folder, "--images", work.images, "--out", out, "--device", "cuda")
    assert_refused(ended, "--device cuda", "finds no GPU here")
    assert not out.exists()
