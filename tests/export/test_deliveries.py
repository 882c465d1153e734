"""Pictures as clients send them: whole numbers, and some that are just about flagged."""

from pathlib import Path

import numpy as np
import pytest
import torch

from export.deliveries import as_images, as_integers, deliveries, near_threshold
from prn_guard.nn.guarded import GuardedClassifier
from tests.training.small import everything
from training.datasets import Pictures
from training.evaluation.outcomes import as_delivered
from training.guard.folder import load_bank


def test_integers_and_back() -> None:
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    images = as_images(pixels)
    assert np.array_equal(images.numpy(), pixels.transpose(0, 3, 1, 2) / np.float32(255))
    assert images.is_contiguous()
    assert np.array_equal(as_integers(images), pixels)


@torch.no_grad()
def test_pictures_at_the_threshold(
    guarded: GuardedClassifier, test_set: Pictures, guard_folder: Path
) -> None:
    """Flagged, but no more so under a thousandth less of the perturbation: 8-bit steps remain."""
    images, perturbation = everything(test_set), load_bank(guard_folder).unseen[0]
    whole = guarded.examine(as_delivered(images, perturbation))
    clean = guarded.examine(images)
    close = near_threshold(images, perturbation, guarded)
    assert len(close) == int((whole[2] & ~clean[2]).sum()) > 5
    _, score, flagged = guarded.examine(close)
    assert flagged.all()
    assert torch.equal((close * 255).round() / 255, close)
    far = (whole[1] - guarded.detector.threshold)[whole[2] & ~clean[2]]
    assert float((score - guarded.detector.threshold).mean()) < 0.2 * float(far.mean())


@torch.no_grad()
def test_where_nothing_crosses_the_threshold_nothing_is_driven_to_it(
    guarded: GuardedClassifier, test_set: Pictures
) -> None:
    still = torch.zeros(test_set.shape)
    assert near_threshold(everything(test_set), still, guarded).shape == (0, *test_set.shape)


@pytest.mark.parametrize("driven", [0, 1, 1000])
def test_every_picture_is_delivered_clean_and_perturbed(
    guarded: GuardedClassifier,
    test_set: Pictures,
    guard_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    driven: int,
) -> None:
    monkeypatch.setattr("export.deliveries.BATCH", 40)
    monkeypatch.setattr("export.deliveries.DRIVEN_TO_THRESHOLD", driven)
    unseen = load_bank(guard_folder).unseen
    given = list(deliveries(test_set, unseen, guarded))
    images = everything(test_set)
    expected = []
    for number, begin in enumerate(range(0, len(images), 40)):
        part = images[begin : begin + 40]
        member = unseen[number % len(unseen)]
        expected += [(part, False), (as_delivered(part, member), False)]
        if number * 1000 < driven or (driven == 1000):
            expected.append((near_threshold(part, member, guarded), True))
    assert len(given) == len(expected)
    for (one, driven_one), (other, driven_other) in zip(given, expected, strict=True):
        assert (one.dtype, driven_one) == (np.uint8, driven_other)
        assert np.array_equal(one, as_integers(other))
