"""The guard that the tests of evaluation, export and command lines share."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.commands import Run
    from tests.training.tiny_guard import Workplace


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> "Workplace":
    """Factory, weights and pictures of the tiny guard; not to be written to."""
    from tests.training.tiny_guard import make_workplace

    return make_workplace(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="session")
def guard_folder(work: "Workplace", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny guard, fitted; not to be written to."""
    from tests.training.tiny_guard import make_fitting_quick
    from training.guard.fit import fit

    folder = tmp_path_factory.mktemp("fitted") / "guard"
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_fitting_quick(monkeypatch)
        fit(work.request(), folder)
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Run":
    """Run `python -m training` in this process; tests of other command lines have their own."""
    from tests.commands import runner
    from training import cli

    return runner(cli.main, "python -m training", monkeypatch, capsys)


@pytest.fixture
def attack(run: "Run", work: "Workplace", tmp_path: Path) -> "Run":
    """`attack` on the tiny target; later options win over earlier ones."""
    out = tmp_path / "p.safetensors"
    usual = ("--epsilon", "0.15", "--steps", "4", "--out", out)
    return lambda *options: run("attack", *work.arguments(), *usual, *options)


@pytest.fixture
def _quick_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make fits and attacks take a tenth of a second."""
    from functools import partial

    from tests.training.tiny_guard import make_fitting_quick
    from training.attacks import stochastic_gradient
    from training.attacks.engine import Schedule

    make_fitting_quick(monkeypatch)
    monkeypatch.setattr(stochastic_gradient, "Schedule", partial(Schedule, steps=10))
