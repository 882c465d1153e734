"""What the rectifier sees: half of the pictures perturbed, as drawn, and the parts of a batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tolerances import BALL, UNIT_VECTOR, assert_close
from tests.training.small import SHAPE, everything, pictures
from training.guard.recipe import Recipe
from training.guard.rectifier_batches import (
    RectifierBatch,
    aimed_at,
    draw_batch,
    perturb_half,
)
from training.processes import Processes

PLAIN = Recipe(epochs=1, learning_rate=0.01)
COUNT = 800
EPSILON = 0.1


def _perturbations() -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1)).sign() * EPSILON


def _drawn(recipe: Recipe, *, seed: int = 3) -> RectifierBatch:
    return draw_batch(
        pictures(COUNT, seed=6),
        torch.arange(COUNT),
        _perturbations(),
        recipe=recipe,
        norm="linf",
        epsilon=EPSILON,
        generator=torch.Generator().manual_seed(seed),
    )


def test_half_of_the_pictures_are_perturbed_each_by_a_random_member() -> None:
    images = everything(pictures(1600, seed=6))
    perturbations = _perturbations()
    seen, is_perturbed = perturb_half(images, perturbations, torch.Generator().manual_seed(3))
    share = float(is_perturbed.double().mean())
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(1600)
    assert torch.equal(seen[~is_perturbed], images[~is_perturbed])
    under = torch.stack([(images + one).clamp(0, 1) for one in perturbations], dim=1)
    matches = (under == seen[:, None]).flatten(2).all(dim=2)
    assert torch.equal(matches.sum(dim=1), is_perturbed.long())
    counts = matches.sum(dim=0).double() / int(is_perturbed.sum())
    assert float((counts - 0.25).abs().max()) < 4 * np.sqrt(0.25 * 0.75 / 700)


def test_the_share_of_perturbed_pictures_is_the_recipes() -> None:
    for share in (0.0, 0.8, 1.0):
        batch = _drawn(replace(PLAIN, perturbed_share=share))
        found = float(batch.is_perturbed.double().mean())
        assert abs(found - share) <= 4 * np.sqrt(share * (1 - share) / COUNT)
        differ = (batch.seen != batch.clean).flatten(1).any(dim=1)
        assert torch.equal(differ, batch.is_perturbed)


def test_half_of_the_pictures_are_mirrored_before_they_are_perturbed() -> None:
    plain = everything(pictures(COUNT, seed=6))
    batch = _drawn(replace(PLAIN, mirrored=True))
    mirrored = (batch.clean == plain.flip(3)).flatten(1).all(dim=1)
    assert torch.equal(~mirrored, (batch.clean == plain).flatten(1).all(dim=1))
    assert abs(float(mirrored.double().mean()) - 0.5) < 4 * 0.5 / np.sqrt(COUNT)
    assert torch.equal(batch.seen[~batch.is_perturbed], batch.clean[~batch.is_perturbed])


def test_varied_perturbations_stay_in_the_larger_ball_and_are_many() -> None:
    batch = _drawn(replace(PLAIN, augmented=True))
    added = (batch.seen - batch.clean)[batch.is_perturbed]
    assert float(added.abs().max()) <= 1.25 * EPSILON + BALL.absolute
    assert len(torch.unique(added.round(decimals=3), dim=0)) > 0.75 * len(added)


def test_the_parts_of_two_processes_are_the_batch() -> None:
    recipe = replace(PLAIN, mirrored=True, augmented=True)
    whole = _drawn(recipe)
    parts = [_drawn(recipe).part(Processes(rank, 2)) for rank in (0, 1)]
    for name, value in vars(whole).items():
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), value)
    assert not torch.equal(_drawn(recipe, seed=4).seen, whole.seen)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.4, 4), (0.33, 3), (1.0, 10)])
def test_the_first_pictures_are_put_under_other_perturbations_in_turn(
    share: float, count: int
) -> None:
    batch = _first(10)
    added = _perturbations()[:3] / 2
    aimed = aimed_at(batch, added, share)
    for place in range(count):
        expected = (batch.clean[place] + added[place % 3]).clamp(0, 1)
        assert torch.equal(aimed.seen[place], expected)
    assert aimed.is_perturbed[:count].all()
    assert aimed.is_aimed.tolist() == [place < count for place in range(10)]
    assert not batch.is_aimed.any()
    assert torch.equal(aimed.seen[count:], batch.seen[count:])
    assert torch.equal(aimed.is_perturbed[count:], batch.is_perturbed[count:])
    assert torch.equal(aimed.clean, batch.clean)


def test_what_was_drawn_is_left_as_it_was() -> None:
    batch, again = _first(10), _first(10)
    aimed_at(batch, _perturbations(), 1.0)
    for name, value in vars(again).items():
        assert torch.equal(getattr(batch, name), value), name
    assert 2 < int(batch.is_perturbed.sum()) < 8


def test_the_gradient_of_a_perturbation_is_the_sum_over_its_unclipped_pictures() -> None:
    batch = _first(10)
    # No multiple of 1/255, so that no pixel comes to lie at a bound.
    added = (4.1 * _perturbations()[:2]).requires_grad_()
    weights = torch.randn(batch.seen.shape, generator=torch.Generator().manual_seed(9))
    (aimed_at(batch, added, 0.5).seen * weights).sum().backward()
    expected = torch.zeros_like(added)
    for place in range(5):
        reached = batch.clean[place] + added.detach()[place % 2]
        inside = (reached >= 0) & (reached <= 1)
        assert not inside.all()
        expected[place % 2] += weights[place] * inside
    assert added.grad is not None
    assert_close(added.grad, expected, UNIT_VECTOR)


def _first(count: int) -> RectifierBatch:
    batch = _drawn(PLAIN)
    return RectifierBatch(**{name: value[:count] for name, value in vars(batch).items()})
