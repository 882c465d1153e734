"""Crafting the suite's entries on the tiny guard."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from prn_guard.nn.guarded import GuardedClassifier
from tests.tolerances import BALL
from training.attacks.fooling import predict
from training.attacks.norms import norm_of
from training.datasets import Pictures
from training.evaluation.informed.attacker import knowledge
from training.evaluation.informed.crafting import Crafting, Knowledge
from training.evaluation.informed.suite import SUITE, Entry, entries_named
from training.evaluation.informed.watching import Look

EPSILON = 0.15


@pytest.fixture
def known(guarded: GuardedClassifier, test_set: Pictures) -> Knowledge:
    warm = torch.full((1, *test_set.shape), 0.02)
    return knowledge(guarded, test_set, norm="linf", precision="float32", seed=3, starts=warm)


def _crafted(
    known: Knowledge, entry: Entry, *, steps: int = 16, **changes: Any
) -> tuple[Tensor, list[Look]]:
    crafting = Crafting(
        entry=entry,
        known=dataclasses.replace(known, **changes),
        epsilon=EPSILON,
        steps=steps,
        generator=torch.Generator().manual_seed(0),
    )
    return crafting.run()


def _entry(name: str) -> Entry:
    return entries_named([name])[0]


@pytest.mark.parametrize("entry", SUITE, ids=lambda entry: entry.name)
def test_every_entry_moves_from_its_start_and_stays_in_the_ball(
    known: Knowledge, entry: Entry
) -> None:
    perturbation, curve = _crafted(known, entry)
    assert 0.5 * EPSILON < float(norm_of(perturbation, "linf")) <= EPSILON + BALL.absolute
    assert torch.equal(perturbation, _crafted(known, entry)[0])
    assert [look["step"] for look in curve] in ([0, 16], [])


def test_in_l2_and_mixed_precision_too(known: Knowledge) -> None:
    found, _ = _crafted(known, _entry("expected guard"), norm="l2", precision="bfloat16")
    assert float(norm_of(found, "l2")) <= EPSILON + BALL.absolute


def test_a_warm_start_lies_on_the_ball(known: Knowledge, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(
        "training.evaluation.informed.crafting.ascend",
        lambda _, __, start, **___: seen.append(start),
    )
    _crafted(known, _entry("expected guard, from held-out"))
    assert torch.allclose(seen[0], torch.tensor(EPSILON))
    _crafted(known, _entry("expected guard"))
    assert seen[1].std() > 0.01


def test_targeted_entries_reach_for_classes_of_their_own(known: Knowledge) -> None:
    assert sorted(known.classes) == [0, 1, 2]
    names = ("first", "second", "third")
    for name, wanted in zip(names, known.classes, strict=True):
        entry = _entry(f"expected guard, {name} class")
        found, _ = _crafted(known, dataclasses.replace(entry, through="bare target"), steps=60)
        shares = torch.bincount(predict(known.guarded.target, known.crafting, found), minlength=3)
        clean = torch.bincount(predict(known.guarded.target, known.crafting), minlength=3)
        assert shares[wanted] > 1.5 * clean[wanted], name


@torch.no_grad()
def test_evading_lowers_scores_the_more_it_weighs(known: Knowledge) -> None:
    images = known.crafting.batch(torch.arange(40))
    scores = []
    for weight in (None, 0.1, 10.0):
        entry = Entry(name="evade", through="bare target", evasion=weight)
        with torch.enable_grad():
            found, _ = _crafted(known, entry, steps=60)
        scores.append(float(known.guarded.examine((images + found).clamp(0, 1))[1].mean()))
    assert scores[2] < scores[1] < scores[0]
