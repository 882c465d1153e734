"""What was crafted is kept for the same request, and for no other."""

from pathlib import Path

import pytest
import torch

from training.evaluation.informed.store import Crafted, PerturbationStore


@pytest.mark.parametrize("same", [True, False])
def test_only_perturbations_of_the_same_request_are_kept(tmp_path: Path, *, same: bool) -> None:
    made: list[float] = []

    def craft(value: float) -> Crafted:
        made.append(value)
        return torch.full((1, 2, 2), value), {"value": value}

    path = tmp_path / "kept.safetensors"
    first = PerturbationStore(path, {"number": 0})
    for value in (0.25, 0.5, 0.25):
        tensor, notes = first.get(f"p{value}", lambda value=value: craft(value))
        assert torch.equal(tensor, torch.full((1, 2, 2), value))
        assert notes == {"value": value}
    assert made == [0.25, 0.5]
    again = PerturbationStore(path, {"number": 0 if same else 1})
    tensor, notes = again.get("p0.25", lambda: craft(0.75))
    assert notes == {"value": 0.25 if same else 0.75}
    assert float(tensor.mean()) == notes["value"]
