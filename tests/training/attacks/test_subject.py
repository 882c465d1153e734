"""What is attacked: pictures parted so that nothing is judged by what it was crafted on."""

import copy

import pytest
import torch
from torch import Tensor, nn

from prn_guard.contract import InputSpec
from prn_guard.errors import DataError
from prn_guard.nn.target import Target, state_digest
from tests.tolerances import LOGIT, assert_close
from tests.training.small import everything, pictures, trained_target
from tests.training.tiny_subject import tiny_subject
from training.attacks import subject as module
from training.attacks.subject import for_attacks, parted
from training.datasets import Pictures, Subset

CPU = torch.device("cpu")


def _rows(of: Pictures) -> list[bytes]:
    return [image.numpy().tobytes() for image in everything(of)]


def test_pictures_are_parted_in_two_halves_that_share_none() -> None:
    known = pictures(121, seed=4)
    crafting, judging = parted(known, None, seed=3, device=CPU)
    assert (len(crafting), len(judging)) == (60, 61)
    assert sorted(_rows(crafting) + _rows(judging)) == sorted(_rows(known))
    label_of = dict(zip(_rows(known), known.labels.tolist(), strict=True))
    for part in (crafting, judging):
        assert [label_of[row] for row in _rows(part)] == part.labels.tolist()


def test_the_seed_decides_which() -> None:
    known = pictures(40, seed=4)
    first, again, other = (parted(known, None, seed=s, device=CPU)[0] for s in (0, 0, 1))
    assert _rows(first) == _rows(again)
    assert set(_rows(first)) != set(_rows(other))


def test_many_pictures_are_cut_to_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CRAFTING_PICTURES", 10)
    monkeypatch.setattr(module, "JUDGING_PICTURES", 15)
    known, others = pictures(60, seed=4), pictures(45, seed=5)
    crafting, judging = parted(known, None, seed=0, device=CPU)
    assert (len(crafting), len(judging)) == (10, 15)
    assert not set(_rows(crafting)) & set(_rows(judging))
    crafting, judging = parted(known, others, seed=0, device=CPU)
    assert len(set(_rows(crafting)) & set(_rows(known))) == 10
    assert _rows(judging) == _rows(others)[::3]


def test_other_pictures_are_all_judged_by_in_their_order() -> None:
    known, others = pictures(30, seed=4), pictures(20, seed=5)
    crafting, judging = parted(known, others, seed=0, device=CPU)
    assert sorted(_rows(crafting)) == sorted(_rows(known))
    assert _rows(judging) == _rows(others)
    assert torch.equal(judging.labels, others.labels)


def test_one_picture_is_too_few() -> None:
    one = Subset(pictures(3), torch.tensor([0]))
    with pytest.raises(DataError, match="others to judge by"):
        parted(one, None, seed=0, device=CPU)
    assert len(parted(one, pictures(2), seed=0, device=CPU)[0]) == 1


def test_every_fact_about_a_subject_counts() -> None:
    usual = tiny_subject().facts()
    assert usual == tiny_subject().facts()
    for name, changed in (
        ("classifier", tiny_subject(identity="another")),
        ("crafting pictures", tiny_subject(crafting=59)),
        ("judging pictures", tiny_subject(judging=pictures(61, seed=6))),
    ):
        differing = [key for key, value in changed.facts().items() if value != usual[key]]
        assert differing == [name]


def test_clean_predictions_are_those_of_what_is_deployed() -> None:
    def third(images: Tensor) -> Tensor:
        return torch.tensor([[0.0, 0.0, 1.0]]).expand(len(images), 3)

    assert tiny_subject(deployed=third).clean_predictions().tolist() == [2] * 61


def test_a_target_for_attacks_answers_as_before() -> None:
    target, images = copy.deepcopy(trained_target()), everything(pictures(20))
    before, weights = target(images), state_digest(target)
    ready = for_attacks(target, torch.device("cpu"))
    assert next(ready.parameters()).is_contiguous(memory_format=torch.channels_last)
    assert_close(ready(images), before, LOGIT)
    assert state_digest(ready) == weights


class _TakesAView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 3, 3, padding=1)
        self.logits = nn.Linear(3 * 12 * 12, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images).relu()
        logits: Tensor = self.logits(features.view(len(features), -1))
        return logits


def test_a_network_that_takes_views_of_its_features_can_be_attacked() -> None:
    torch.manual_seed(0)
    spec = InputSpec(
        channels=1, height=12, width=12, mean=(0.5,), std=(0.25,), channel_order="gray"
    )
    target = Target(_TakesAView(), spec)
    images = everything(pictures(4, seed=1))
    before = target(images)
    assert torch.equal(for_attacks(target, CPU)(images), before)
