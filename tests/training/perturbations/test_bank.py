"""A crafted bank meets its criteria, whoever recomputes them, and survives interruptions."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from prn_guard.errors import ArtifactError, DataError
from tests.tolerances import BALL, COSINE, assert_close
from tests.training.small import everything, pictures, trained_target
from training.attacks.engine import Schedule
from training.attacks.norms import norm_of
from training.checkpoint import save_tensors
from training.perturbations.bank import Bank, BankCriteria, largest_cosine
from training.perturbations.search import craft_bank

CRITERIA = BankCriteria(
    members=5, held_out=2, least_fooling=0.58, most_cosine=0.14, candidates_per_member=5
)
EPSILON = 2.5


class _InterruptedError(Exception):
    pass


def _craft(*, resume: Path | None = None, stop_after: int = 0, seed: int = 0) -> Bank:
    def on_round(bank: Bank) -> None:
        if bank.candidates == stop_after:
            raise _InterruptedError

    return craft_bank(
        trained_target(),
        pictures(200, seed=2),
        pictures(200, seed=3),
        norm="l2",
        epsilon=EPSILON,
        seed=seed,
        criteria=CRITERIA,
        schedule=Schedule(steps=40),
        resume=resume,
        on_round=on_round,
    )


@pytest.fixture(scope="module")
def bank() -> Bank:
    return _craft()


def _cosines(perturbations: Tensor) -> np.ndarray:
    flat = perturbations.flatten(1).double().numpy()
    pairs = [(i, j) for i in range(len(flat)) for j in range(i)]
    return np.array(
        [flat[i] @ flat[j] / np.sqrt(flat[i] @ flat[i] * (flat[j] @ flat[j])) for i, j in pairs]
    )


def test_members_meet_the_criteria_recomputed(bank: Bank) -> None:
    target, judging = trained_target(), everything(pictures(200, seed=3))
    with torch.no_grad():
        clean = target(judging).argmax(1)
        rates = [
            float((target((judging + one).clamp(0, 1)).argmax(1) != clean).double().mean())
            for one in bank.perturbations
        ]
    assert list(bank.fooling_rates) == rates
    assert min(rates) >= 0.58 + 2 * math.sqrt(0.58 * 0.42 / 200)
    cosines = np.abs(_cosines(bank.perturbations))
    assert cosines.max() <= 0.14
    assert_close(largest_cosine(bank.perturbations), cosines.max(), COSINE)
    assert float(norm_of(bank.perturbations, "l2").max()) <= EPSILON + BALL.absolute
    assert not bank.relaxed


def test_every_candidate_is_accepted_or_counted_as_rejected(bank: Bank) -> None:
    assert len(bank.perturbations) == 5
    assert bank.rejected_fooling > 0
    assert bank.rejected_cosine > 0
    assert bank.candidates == 5 + bank.rejected_fooling + bank.rejected_cosine


def test_held_out_members_are_others_than_those_trained_on(bank: Bank) -> None:
    assert (len(bank.training), len(bank.unseen)) == (3, 2)
    assert torch.equal(torch.cat([bank.training, bank.unseen]), bank.perturbations)
    assert len(torch.unique(bank.perturbations.flatten(1), dim=0)) == 5


def test_none_held_out_means_all_are_trained_on(bank: Bank) -> None:
    open_bank = replace(bank, held_out=0)
    assert torch.equal(open_bank.training, bank.perturbations)
    assert len(open_bank.unseen) == 0


def test_shuffling_keeps_rates_with_their_members_and_varies_who_is_held_out(bank: Bank) -> None:
    last = set()
    for seed in range(8):
        shuffled = bank.shuffled(torch.Generator().manual_seed(seed))
        pairs = zip(shuffled.perturbations, shuffled.fooling_rates, strict=True)
        places = [
            next(k for k, one in enumerate(bank.perturbations) if torch.equal(one, member))
            for member, _ in pairs
        ]
        assert sorted(places) == list(range(5))
        assert list(shuffled.fooling_rates) == [bank.fooling_rates[place] for place in places]
        last.add(places[-1])
    assert len(last) > 2


def test_a_saved_bank_comes_back(bank: Bank, tmp_path: Path) -> None:
    bank.save(tmp_path / "bank.safetensors")
    loaded = Bank.load(tmp_path / "bank.safetensors")
    assert torch.equal(loaded.perturbations, bank.perturbations)
    assert replace(loaded, perturbations=bank.perturbations) == bank
    assert loaded.summary() == bank.summary()
    assert loaded.summary()["largest_cosine"] == largest_cosine(bank.perturbations)


@pytest.mark.parametrize("metadata", [{}, {"bank": {"norm": "l2"}}, {"bank": 3}])
def test_a_file_that_holds_no_bank_is_refused(tmp_path: Path, metadata: dict[str, object]) -> None:
    path = tmp_path / "other.safetensors"
    save_tensors(path, {"perturbations": torch.zeros(2, 1, 4, 4)}, metadata)
    with pytest.raises(ArtifactError, match=r"other\.safetensors is no perturbation bank"):
        Bank.load(path)


@pytest.mark.parametrize("stop_after", [1, 6])
def test_an_interrupted_search_ends_with_the_same_bank(
    bank: Bank, tmp_path: Path, stop_after: int
) -> None:
    path = tmp_path / "state" / "bank.safetensors"
    with pytest.raises(_InterruptedError):
        _craft(resume=path, stop_after=stop_after)
    kept = path.read_bytes()
    resumed = _craft(resume=path)
    assert path.read_bytes() != kept
    assert torch.equal(resumed.perturbations, bank.perturbations)
    assert resumed.summary() == bank.summary()


def test_another_seed_crafts_another_bank(bank: Bank) -> None:
    assert not torch.equal(_craft(seed=1).perturbations[0], bank.perturbations[0])


def test_a_target_that_cannot_be_fooled_leaves_too_few() -> None:
    with pytest.raises(
        DataError, match="After 3 candidates no two different perturbations of linf"
    ):
        craft_bank(
            trained_target(),
            pictures(50, seed=2),
            pictures(50, seed=3),
            norm="linf",
            epsilon=1e-6,
            seed=0,
            criteria=replace(CRITERIA, members=3, candidates_per_member=1, most_cosine=1.0),
            schedule=Schedule(steps=2),
        )
