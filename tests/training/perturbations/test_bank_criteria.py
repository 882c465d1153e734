"""Who joins a bank, with candidates made to measure in place of the attack."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
import torch
from torch import Tensor

from prn_guard.errors import DataError
from tests.training.small import (
    SHAPE,
    VALUES,
    everything,
    gray_pictures,
    linear_classifier,
)
from training.perturbations import search as module
from training.perturbations.bank import Bank, BankCriteria
from training.perturbations.search import craft_bank

JUDGED = 100
BRIGHT = 0.53


class Crafted(Protocol):
    """A search whose attack answers with the given candidates, one after the other."""

    def __call__(
        self,
        candidates: list[Tensor],
        criteria: BankCriteria,
        *,
        resume: Path | None = None,
        seed: int = 0,
    ) -> Bank: ...


def _mean_classifier() -> torch.nn.Module:
    """Says "yes" to pictures that are a little brighter than any of the judging set."""
    return linear_classifier(torch.ones(VALUES) / VALUES, -BRIGHT)


def _brighter(share: float, *, rows: slice) -> Tensor:
    """Light on some rows of pixels that carries `share` of the judging pictures across."""
    gaps = (BRIGHT - everything(gray_pictures(JUDGED)).mean(dim=(1, 2, 3))).sort().values
    assert float(gaps[0]) > 0
    place = round(share * JUDGED)
    needed = float(gaps[place - 1] + gaps[place]) / 2 if place else 0.0
    light = torch.zeros(SHAPE)
    light[:, rows] = 1.0
    return light * needed / float(light.mean())


@pytest.fixture
def crafted(monkeypatch: pytest.MonkeyPatch) -> Crafted:
    def craft(
        candidates: list[Tensor],
        criteria: BankCriteria,
        *,
        resume: Path | None = None,
        seed: int = 0,
    ) -> Bank:
        queue: Iterator[Tensor] = iter(candidates)
        monkeypatch.setattr(module, "stochastic_gradient_uaps", lambda *_, **__: next(queue)[None])
        judging = gray_pictures(JUDGED)
        return craft_bank(
            _mean_classifier(),
            judging,
            judging,
            norm="linf",
            epsilon=0.5,
            seed=seed,
            criteria=criteria,
            resume=resume,
        )

    return craft


TOP, MIDDLE, BOTTOM = slice(0, 4), slice(4, 8), slice(8, 12)


def test_a_candidate_must_clear_the_criterion_by_two_standard_errors(crafted: Crafted) -> None:
    """Two standard errors of 0.5 among 100 pictures are 0.1."""
    candidates = [
        _brighter(0.59, rows=TOP), _brighter(0.61, rows=MIDDLE), _brighter(0.8, rows=BOTTOM)
    ]  # fmt: skip
    criteria = BankCriteria(members=2, held_out=1, least_fooling=0.5)
    bank = crafted(candidates, criteria)
    assert sorted(bank.fooling_rates) == [0.61, 0.8]
    assert (bank.candidates, bank.rejected_fooling, bank.rejected_cosine) == (3, 1, 0)
    assert not bank.relaxed


@pytest.mark.parametrize("sign", [1, -1])
def test_a_direction_and_its_opposite_are_both_too_close(crafted: Crafted, sign: int) -> None:
    """The cosine of an overlap of one row in four is 1/4."""
    near = sign * _brighter(0.9, rows=slice(3, 7))
    candidates = [
        _brighter(0.9, rows=TOP), near, _brighter(0.9, rows=MIDDLE), _brighter(0.9, rows=BOTTOM)
    ]  # fmt: skip
    narrow = BankCriteria(members=3, held_out=1, least_fooling=0.5, most_cosine=0.24)
    bank = crafted(candidates, narrow)
    assert (bank.candidates, bank.rejected_fooling, bank.rejected_cosine) == (4, 0, 1)
    assert not any(torch.equal(member, near) for member in bank.perturbations)
    wide = BankCriteria(members=3, held_out=1, least_fooling=0.0, most_cosine=0.26)
    bank = crafted(candidates[:2] + candidates[3:], wide)
    assert (bank.candidates, bank.rejected_cosine) == (3, 0)


def test_where_the_wish_is_out_of_reach_the_strongest_are_kept_and_it_is_said(
    crafted: Crafted,
) -> None:
    candidates = [
        _brighter(0.0, rows=slice(0, 2)),
        _brighter(0.2, rows=slice(2, 4)),
        _brighter(0.5, rows=slice(4, 6)),
        _brighter(0.6, rows=slice(5, 7)),
        _brighter(0.9, rows=slice(8, 10)),
        _brighter(0.3, rows=slice(10, 12)),
    ]
    candidates[0][:, 0, :6] -= 0.01
    bank = crafted(candidates, BankCriteria(members=6, held_out=3, candidates_per_member=1))
    assert bank.relaxed
    # 0.5 is too close to the stronger 0.6; what fools nobody is not taken even into a short bank.
    assert sorted(bank.fooling_rates) == [0.2, 0.3, 0.6, 0.9]
    assert (bank.rejected_fooling, bank.rejected_cosine, bank.held_out) == (5, 0, 2)
    short = crafted(candidates, BankCriteria(members=3, held_out=2, candidates_per_member=2))
    assert sorted(short.fooling_rates) == [0.3, 0.6, 0.9]
    assert (short.relaxed, short.held_out) == (True, 2)


def test_one_that_fools_is_too_few(crafted: Crafted) -> None:
    candidates = [_brighter(0.9, rows=TOP), torch.zeros(SHAPE), _brighter(0.9, rows=TOP)]
    with pytest.raises(DataError, match=r"After 3 candidates no two different .* linf norm 0.5"):
        crafted(candidates, BankCriteria(members=3, held_out=1, candidates_per_member=1))


def test_the_held_out_share_is_exact(crafted: Crafted) -> None:
    """15 of 22 in floating point is 14.999...; one fewer would have been held out."""
    candidates = [torch.zeros(SHAPE) for _ in range(22)]
    for number, candidate in enumerate(candidates):
        candidate.view(-1)[number] = 0.5
    criteria = BankCriteria(members=22, held_out=15, least_fooling=0.0)
    assert crafted(candidates, criteria).held_out == 15


def test_who_is_held_out_is_drawn_by_the_seed_not_by_the_order_of_acceptance(
    crafted: Crafted,
) -> None:
    candidates = [torch.zeros(SHAPE) for _ in range(12)]
    for number, candidate in enumerate(candidates):
        candidate.view(-1)[number] = 0.5
    criteria = BankCriteria(members=12, held_out=4, least_fooling=0.0)
    orders = [
        crafted(candidates, criteria, seed=seed).perturbations.flatten(1).argmax(dim=1).tolist()
        for seed in (0, 1)
    ]
    assert [sorted(order) for order in orders] == [list(range(12))] * 2
    assert list(range(12)) not in orders
    assert set(orders[0][-4:]) != set(orders[1][-4:])


def test_weaker_candidates_survive_an_interruption_too(crafted: Crafted, tmp_path: Path) -> None:
    shares, path = (0.2, 0.9, 0.5, 0.3), tmp_path / "state.safetensors"
    candidates = [
        _brighter(share, rows=slice(3 * number, 3 * number + 3))
        for number, share in enumerate(shares)
    ]
    criteria = BankCriteria(members=4, held_out=1, candidates_per_member=1)
    straight = crafted(candidates, criteria)
    assert straight.relaxed
    with pytest.raises(StopIteration):
        crafted(candidates[:3], criteria, resume=path)
    resumed = crafted(candidates[3:], criteria, resume=path)
    assert sorted(resumed.fooling_rates) == sorted(shares)
    assert resumed.summary() == straight.summary()
    assert torch.equal(resumed.perturbations, straight.perturbations)


@pytest.mark.parametrize("together", [1, 4])
def test_candidates_are_sent_away_from_members_half_of_them_to_a_class(
    monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    classes: list[int | None] = []
    avoided: list[int] = []

    def spy(
        classifier: object, known: object, target_classes: list[int | None], **arguments: object
    ) -> Tensor:
        away = arguments["away_from"]
        assert isinstance(away, Tensor)
        candidates = torch.zeros(len(target_classes), *SHAPE)
        for number, target_class in enumerate(target_classes):
            classes.append(target_class)
            candidates[number].view(-1)[len(classes)] = 0.5
        avoided.append(len(away))
        return candidates

    monkeypatch.setattr(module, "stochastic_gradient_uaps", spy)
    criteria = BankCriteria(members=80, held_out=1, least_fooling=0.0)
    known = gray_pictures(20)
    craft_bank(
        _mean_classifier(),
        known,
        known,
        norm="linf",
        epsilon=0.5,
        seed=0,
        criteria=criteria,
        together=together,
    )
    assert avoided == list(range(0, 80, together))
    targeted = [one for one in classes if one is not None]
    assert set(targeted) == {0, 1}
    assert 22 <= len(targeted) <= 58  # four standard errors around one half of 80
