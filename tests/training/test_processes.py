"""The processes that train together: their parts of a batch, and who decides."""

import pytest
import torch

from prn_guard.errors import InvalidArgumentError
from training.processes import Processes, processes


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes(torch.device("cpu")) as together:
        assert together == Processes(0, 1)
        assert together.leads
        assert together.leader_says(answer=True)
        assert not together.leader_says(answer=False)
        value = torch.tensor([3.0])
        together.average([value])
        together.wait()
        assert value == 3


def test_the_parts_of_a_batch_are_the_batch() -> None:
    batch = torch.arange(12).reshape(6, 2)
    parts = [Processes(rank, 3).own(batch) for rank in range(3)]
    assert torch.equal(torch.cat(parts), batch)
    assert all(len(part) == 2 for part in parts)


def test_the_leading_process_works_and_its_refusal_is_raised() -> None:
    done: list[int] = []
    Processes().lead(lambda: done.append(1))
    assert done == [1]

    def refuse() -> None:
        raise InvalidArgumentError("No.")

    with pytest.raises(InvalidArgumentError, match="No"):
        Processes().lead(refuse)


def test_a_batch_that_cannot_be_shared_out_evenly_is_refused() -> None:
    Processes(0, 4).check_batch(8)
    with pytest.raises(InvalidArgumentError, match=r"of 8 cannot .* 3 processes; .* of 3\."):
        Processes(0, 3).check_batch(8)
