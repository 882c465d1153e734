"""Pictures as a guard's record says, and that it is not judged on those that it was fitted on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prn_guard.errors import DataError
from tests.training.small import pictures
from tests.training.tiny_guard import TEST, TRAINING, Workplace, partly_mislabelled, write_idx
from training.datasets import Pictures, digest_of
from training.evaluation.evaluate import evaluate_guard
from training.evaluation.informed.command import attack_guard_folder
from training.evaluation.transfer_command import transfer
from training.guard.folder import read_record
from training.guard.pictures import judged_pictures


@pytest.mark.parametrize("limit", [None, 60])
@pytest.mark.parametrize("measure", [evaluate_guard, transfer, attack_guard_folder])
def test_a_guard_is_not_measured_on_the_pictures_that_it_was_fitted_on(
    guard_folder: Path, tmp_path: Path, measure: Callable[..., Any], limit: int | None
) -> None:
    write_idx(tmp_path / "same", "t10k", partly_mislabelled(pictures(TRAINING, seed=11)))
    with pytest.raises(DataError, match=r"guard was fitted on .*expected others.* kept apart"):
        measure(guard_folder, str(tmp_path / "same"), tmp_path / "out", limit=limit)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("limit", [None, 20])
def test_other_pictures_are_opened(
    guard_folder: Path, work: Workplace, test_set: Pictures, limit: int | None
) -> None:
    record = read_record(guard_folder)
    found = judged_pictures(guard_folder, record, str(work.images), limit=limit)
    assert len(found) == (limit or TEST)
    assert (digest_of(found) == digest_of(test_set)) == (limit is None)
