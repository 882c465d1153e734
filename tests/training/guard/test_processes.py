"""Two processes, started as a user starts them, fit what one fits."""

from pathlib import Path

import pytest
import torch

from tests.tolerances import (
    SHARED_OUT,
    SHARED_OUT_COUNTS,
    SHARED_OUT_FOUND,
    SHARED_OUT_JOINT,
    SHARED_OUT_ROUNDS,
    assert_close,
)
from tests.training.guard.process import CASES
from tests.training.small import SHAPE
from tests.training.tiny_guard import Workplace
from tests.training.torchrun import ROOT, alone, torchrun
from training.checkpoint import load_tensors
from training.guard.folder import load_guard
from training.guard.held_perturbations import HeldPerturbations

OF_CASE = {"joint": SHARED_OUT_JOINT, "rounds": SHARED_OUT_ROUNDS}
OF_NAME = {"found": SHARED_OUT_FOUND, "kept": SHARED_OUT_COUNTS}
COMMAND = """
import sys
from pathlib import Path

import pytest
import torch

from tests.training.tiny_guard import Workplace, make_fitting_quick
from training.guard.fit import fit

torch.set_num_threads(1)
folder, out = (Path(name) for name in sys.argv[1:])
work = Workplace(folder / "factory.py", folder / "weights.safetensors", folder / "pictures")
with pytest.MonkeyPatch.context() as monkeypatch:
    make_fitting_quick(monkeypatch)
    fit(work.request(processes=2, epochs=3), out)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one and what two processes ended with."""
    found = tmp_path_factory.mktemp("processes")
    script = ROOT / "tests" / "training" / "guard" / "process.py"
    # Not in this process: its target was trained by more threads, which rounds otherwise.
    alone(script, found)
    torchrun(script, found)
    return found


def _ends(folder: Path, case: str, rank: int, count: int) -> dict[str, torch.Tensor]:
    return load_tensors(folder / f"{case}-{rank}-of-{count}.safetensors")[0]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(folder: Path, case: str) -> None:
    alone = _ends(folder, case, 0, 1)
    ends = [_ends(folder, case, rank, 2) for rank in (0, 1)]
    for name, value in alone.items():
        assert_close(ends[0][name], value, OF_NAME.get(name, OF_CASE.get(case, SHARED_OUT)))
        assert torch.equal(ends[0][name], ends[1][name])
    assert alone["heard"].unique().tolist() == [7.0]
    if case != "rounds":  # whose weights move on after the state was written
        kept, _ = load_tensors(folder / f"state-{case}-of-2.safetensors")
        assert torch.equal(kept["module.0.exit.weight"], ends[0]["0.exit.weight"])


def test_what_is_held_moves_along_the_gradient_of_both_halves(folder: Path) -> None:
    one, two = (
        load_tensors(folder / f"state-joint-of-{count}.safetensors")[0]["kept.held perturbations"]
        for count in (1, 2)
    )
    assert_close(two[0], one[0], SHARED_OUT_FOUND)
    begun = HeldPerturbations(
        SHAPE, norm="l2", epsilon=1.8, seed=0, kept=None, device=torch.device("cpu")
    )
    assert float((one[0] - begun.state[0]).flatten(1).abs().amax(dim=1).min()) > 0.1


def test_a_whole_fit_by_two_processes_leaves_one_guard(work: Workplace, tmp_path: Path) -> None:
    script, out = tmp_path / "script.py", tmp_path / "guard"
    script.write_text(COMMAND)
    torchrun(script, work.factory.parent, out)
    assert not (out / "state").exists()
    _, record = load_guard(out)
    assert list(record.seconds) == ["bank", "synthetic", "rectifier", "detector", "test"]
