"""Two processes, started as a user starts them, train what one trains."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from prn_guard.errors import InvalidArgumentError
from tests.tolerances import SHARED_OUT, assert_close
from tests.training.hardening.networks import changing, equal_states, recipe, trainer
from tests.training.hardening.process import CASES, main
from tests.training.tiny_guard import Workplace
from tests.training.torchrun import torchrun
from training.checkpoint import load_tensors
from training.processes import Processes

ROOT = Path(__file__).parents[3]
COMMAND = """
import sys
from pathlib import Path

import torch

from tests.training.hardening.requests import hardening
from tests.training.tiny_guard import Workplace
from training.hardening.command import harden

torch.set_num_threads(1)
folder, out = (Path(name) for name in sys.argv[1:])
work = Workplace(folder / "factory.py", folder / "weights.safetensors", folder / "pictures")
record = harden(hardening(work, processes=2), out)
assert record["request"]["processes"] == 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one and what two processes ended with."""
    found = tmp_path_factory.mktemp("processes")
    main(found)
    torchrun(ROOT / "tests" / "training" / "hardening" / "process.py", found)
    return found


def _ends(folder: Path, case: str, rank: int, count: int) -> dict[str, torch.Tensor]:
    return load_tensors(folder / f"{case}-{rank}-of-{count}.safetensors")[0]


@pytest.mark.parametrize("case", sorted(set(CASES) - {"batch statistics"}))
def test_two_processes_train_as_one(folder: Path, case: str) -> None:
    alone = _ends(folder, case, 0, 1)
    for rank in (0, 1):
        together = _ends(folder, case, rank, 2)
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            assert_close(together[name], value, SHARED_OUT)


@pytest.mark.parametrize("case", CASES)
def test_both_end_with_the_same_bits(folder: Path, case: str) -> None:
    # Batch statistics, which each takes of its own part, are averaged at the end of an epoch.
    assert equal_states(_ends(folder, case, 0, 2), _ends(folder, case, 1, 2))


def test_the_leading_process_decides(folder: Path) -> None:
    for rank in (0, 1):
        assert json.loads((folder / f"said-{rank}.json").read_text()) == [True, False, False]


def test_a_whole_hardening_by_two_processes_leaves_one_record(
    work: Workplace, tmp_path: Path
) -> None:
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(COMMAND)
    torchrun(script, work.factory.parent, out)
    names = {path.name for path in out.iterdir()}
    assert names == {"request.json", "hardening.json", "weights.safetensors", "training.svg"}
    record = json.loads((out / "hardening.json").read_text())
    assert [one["epoch"] for one in record["epochs"]] == [1, 2, 3]


def test_batches_that_cannot_be_shared_out_evenly_are_refused() -> None:
    message = r"Mini-batches of 8 cannot .* 3 processes; .* mini-batches of a multiple of 3"
    with pytest.raises(InvalidArgumentError, match=message):
        trainer(changing(), processes=Processes(0, 3))
    trainer(
        changing(), rates=dataclasses.replace(recipe(), batch_size=9), processes=Processes(0, 3)
    )


def test_each_process_makes_its_own_random_choices() -> None:
    drawn = [
        trainer(changing(), processes=Processes(rank, 2)).generator("augmentation").initial_seed()
        for rank in (0, 1)
    ]
    assert drawn[0] != drawn[1]
    assert drawn[0] == trainer(changing()).generator("augmentation").initial_seed()
