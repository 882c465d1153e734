"""Crops and flips against a loop over pixels."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.reference.augmentation import everywhere, flipped
from training.hardening.augmentation import augment
from training.hardening.recipe import Augmentation


def _seed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _picture(height: int = 16, width: int = 24) -> Tensor:
    """No two pixels alike, and none black."""
    return (torch.randperm(3 * height * width, generator=_seed(1)) + 1).reshape(
        3, height, width
    ) / (4 * height * width)


def test_nothing_is_done_to_pictures_that_are_to_be_left_alone() -> None:
    images, generator = torch.rand(3, 3, 16, 16), _seed()
    before = generator.get_state()
    assert augment(images, "none", generator) is images
    assert torch.equal(generator.get_state(), before)


def test_half_of_the_pictures_are_flipped_the_others_left() -> None:
    picture = _picture()
    result = augment(picture.expand(400, -1, -1, -1), "flip", _seed()).numpy()
    mirrored = flipped(picture.numpy())
    flips = sum(np.array_equal(one, mirrored) for one in result)
    assert flips + sum(np.array_equal(one, picture.numpy()) for one in result) == 400
    assert abs(flips - 200) < 50  # five standard deviations


def test_crops_are_shifts_by_up_to_an_eighth_all_of_them_as_often() -> None:
    picture = _picture()
    count, possible = 1500, everywhere(picture.numpy(), 2, 3)
    by_bytes = {one.tobytes(): move for move, one in possible.items()}
    assert len(by_bytes) == 2 * 5 * 7
    result = augment(picture.expand(count, -1, -1, -1), "crop-flip", _seed())
    moves = [by_bytes[one.contiguous().numpy().tobytes()] for one in result]
    for values in zip(*moves, strict=True):
        shares = Counter(values)
        expected = count / len(shares)
        assert all(abs(found - expected) < 5 * expected**0.5 for found in shares.values())
    assert set(moves) == set(possible)


def test_each_picture_is_moved_by_itself_with_all_its_channels() -> None:
    pictures = torch.stack([_picture(16, 16), _picture(16, 16).flip(2), _picture(16, 16) / 2])
    result = augment(pictures, "crop-flip", _seed(3)).numpy()
    for before, after in zip(pictures.numpy(), result, strict=True):
        assert any(np.array_equal(after, one) for one in everywhere(before, 2, 2).values())


@pytest.mark.parametrize("augmentation", ["flip", "crop-flip"])
def test_the_generator_alone_decides(augmentation: Augmentation) -> None:
    images = torch.rand(20, 1, 16, 16, generator=_seed(2))
    one, same, other = (augment(images, augmentation, _seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_pictures_too_small_for_a_border_are_flipped_only() -> None:
    images = torch.rand(20, 1, 7, 7, generator=_seed(2))
    for before, after in zip(images, augment(images, "crop-flip", _seed()), strict=True):
        assert torch.equal(before, after) or torch.equal(before.flip(2), after)
