"""Attack objectives against float64 log-sum-exp and cosines."""

import numpy as np
import pytest
import torch

from tests.reference import losses as reference
from tests.tolerances import LOSS, assert_close
from training.attacks.losses import (
    LOSS_CLIP,
    clipped_cross_entropy,
    closeness_to_class,
    cosine_excess,
    logit_cosine,
    logit_margin,
    margin_of_class,
)


def _logits() -> torch.Tensor:
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * 8


def test_cross_entropy_is_clipped_picture_by_picture() -> None:
    logits, labels = _logits(), torch.arange(40) % 6
    oracle = reference.cross_entropy(logits, labels)
    assert LOSS_CLIP == 9.0
    assert 5 < int((oracle > 9).sum()) < 35
    assert_close(clipped_cross_entropy(logits, labels), np.minimum(oracle, 9), LOSS)
    assert_close(clipped_cross_entropy(logits, labels, clip=2), np.minimum(oracle, 2), LOSS)


def test_a_clipped_picture_no_longer_pulls() -> None:
    logits = torch.tensor([[0.0, 20.0], [0.0, 1.0]], requires_grad=True)
    clipped_cross_entropy(logits, torch.tensor([0, 0])).sum().backward()
    assert not logits.grad[0].any()
    assert logits.grad[1].abs().min() > 0.1


def test_closeness_is_minus_the_cross_entropy_to_the_class() -> None:
    logits = _logits()
    oracle = -reference.cross_entropy(logits, np.full(40, 4))
    assert_close(closeness_to_class(logits, 4), oracle, LOSS)


def test_only_what_a_cosine_has_beyond_the_allowed_costs() -> None:
    generator = torch.Generator().manual_seed(1)
    others = torch.nn.functional.normalize(torch.randn(5, 48, generator=generator), dim=1)
    mixed = (others[0] - 0.7 * others[1] + 0.05 * others[2]).reshape(3, 4, 4) * 0.3
    for allowed in (0.0, 0.12, 0.5):
        result = cosine_excess(mixed[None], others, allowed=allowed)
        assert_close(result, [reference.cosine_excess(mixed, others, allowed)], LOSS)
    assert float(cosine_excess(mixed[None], others, allowed=0.95)) == 0.0


def test_cosines_among_each_other_cost_the_same() -> None:
    stack = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    result = cosine_excess(stack, torch.zeros(0, 16), allowed=0.05)
    for number, one in enumerate(stack):
        others = torch.cat([stack[:number], stack[number + 1 :]]).flatten(1)
        assert_close(result[number], reference.cosine_excess(one, others, 0.05), LOSS)


def test_the_cosine_to_nothing_is_finite() -> None:
    nothing = torch.zeros(1, 1, 4, 4)
    assert float(cosine_excess(nothing, torch.ones(2, 16) / 4, allowed=0.1)) == 0.0


@pytest.mark.parametrize("clip", [2.0, 10.0])
def test_a_margin_is_the_lead_of_the_best_other_class(clip: float) -> None:
    logits, labels = _logits() * 3, torch.arange(40) % 6
    rows = np.asarray(logits, dtype=np.float64)
    leads = [
        np.delete(row, label).max() - row[label]
        for row, label in zip(rows, labels.tolist(), strict=True)
    ]
    assert_close(logit_margin(logits, labels, clip=clip), np.minimum(leads, clip), LOSS)
    for target_class in (0, 4, 5):
        reached = [row[target_class] - np.delete(row, target_class).max() for row in rows]
        result = margin_of_class(logits, target_class, clip=clip)
        assert_close(result, np.minimum(reached, clip), LOSS)


def test_the_cosine_of_logits_is_that_of_numpy() -> None:
    logits, clean = _logits(), _logits().flip(0) + 0.3
    one, other = np.asarray(logits, dtype=np.float64), np.asarray(clean, dtype=np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    assert_close(logit_cosine(logits, clean), -(one * other).sum(axis=1) / norms, LOSS)
