"""Attack objectives against float64 log-sum-exp and cosines."""

import numpy as np
import torch

from tests.reference import losses as reference
from tests.tolerances import LOSS, assert_close
from training.attacks.losses import (
    LOSS_CLIP,
    clipped_cross_entropy,
    closeness_to_class,
    cosine_excess,
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
        result = cosine_excess(mixed, others, allowed=allowed)
        assert_close(result, reference.cosine_excess(mixed, others, allowed), LOSS)
    assert float(cosine_excess(mixed, others, allowed=0.95)) == 0.0


def test_the_cosine_to_nothing_is_finite() -> None:
    assert float(cosine_excess(torch.zeros(1, 4, 4), torch.ones(2, 16) / 4, allowed=0.1)) == 0.0
