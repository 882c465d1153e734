"""`fit` interrupted in every stage, or out of disk space, ends with the same guard."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from prn_guard.errors import ArtifactError, StorageError
from tests.training.guard.short_fit import assert_same_guard, make_short, stop
from tests.training.tiny_guard import Workplace
from training.guard import crafting, rectifier_stage
from training.guard import fit as module
from training.guard.fit import fit
from training.guard.folder import load_guard
from training.guard.guard_attack import GuardAttack
from training.perturbations import search


def _stopping_tracker(title: str, after: int) -> Callable[[str], Any]:
    """`tracked` whose tracker for `title` is stopped by the user at call number `after`."""

    @contextmanager
    def tracked(given: str) -> Iterator[Callable[..., None]]:
        calls = iter(range(1, 1000))

        def track(*_: object) -> None:
            if next(calls) == after and given == title:
                raise KeyboardInterrupt

        yield track

    return tracked


ROUNDS = "Attacking the guard, and training on what is found"
STAGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "bank, first candidate": lambda patch: patch.setattr(search, "fooling_rate", stop),
    "bank, third candidate": lambda patch: patch.setattr(
        crafting, "tracked", _stopping_tracker("Crafting perturbations", 3)
    ),
    "synthetic": lambda patch: patch.setattr(crafting, "synthesise", stop),
    "rectifier, iteration 1": lambda patch: patch.setattr(
        rectifier_stage, "tracked", _stopping_tracker("Training the rectifier", 1)
    ),
    "rectifier, iteration 5": lambda patch: patch.setattr(
        rectifier_stage, "tracked", _stopping_tracker("Training the rectifier", 5)
    ),
    "rounds, first": lambda patch: patch.setattr(GuardAttack, "run", stop),
    "rounds, second": lambda patch: patch.setattr(
        rectifier_stage, "tracked", _stopping_tracker(ROUNDS, 1)
    ),
    "rounds, done": lambda patch: patch.setattr(
        rectifier_stage, "tracked", _stopping_tracker(ROUNDS, 2)
    ),
    "rectifier, saving": lambda patch: patch.setattr(rectifier_stage, "save_module", stop),
    "rectifier, half saved": lambda patch: patch.setattr(rectifier_stage, "save_tensors", stop),
    "detector": lambda patch: patch.setattr(module, "calibrate", stop),
    "test": lambda patch: patch.setattr(module, "_test_figures", stop),
    "record": lambda patch: patch.setattr(module.layout, "write_record", stop),
}


@pytest.fixture(scope="module")
def uninterrupted(work: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "guard"
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_short(monkeypatch)
        fit(work.request(), folder)
    return folder


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("stage", list(STAGES))
def test_an_interrupted_fit_ends_with_the_same_guard(
    work: Workplace, uninterrupted: Path, tmp_path: Path, stage: str
) -> None:
    out = tmp_path / "guard"
    with pytest.MonkeyPatch.context() as patch:
        STAGES[stage](patch)
        with pytest.raises(KeyboardInterrupt):
            fit(work.request(), out)
    assert not (out / "guard.json").exists()
    with pytest.raises(ArtifactError, match="holds no finished guard"):
        load_guard(out)
    fit(work.request(), out)
    assert not (out / "state").exists()
    assert_same_guard(out, uninterrupted)


@pytest.mark.usefixtures("_short")
def test_a_full_disk_leaves_nothing_half_written_and_the_fit_goes_on(
    work: Workplace, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    out = tmp_path / "guard"
    with monkeypatch.context() as patched:
        patched.setattr("training.checkpoint.save_file", full)
        with pytest.raises(StorageError, match="No space left"):
            fit(work.request(), out)
    assert {path.name for path in out.rglob("*")} <= {"request.json", "target.safetensors", "state"}
    fit(work.request(), out)
    assert_same_guard(out, uninterrupted)
