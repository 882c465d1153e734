"""The order of channels, as a classifier tells it."""

import pytest
import torch
from torch import Tensor

from prn_guard.errors import DataError
from training.datasets import ArrayPictures
from training.perturbations.channel_order import MEMBERS, PICTURES, check_channel_order

SHAPE = (3, 4, 4)


def _pictures(count: int) -> ArrayPictures:
    pixels = torch.randint(90, 166, (count, *SHAPE), generator=torch.Generator().manual_seed(0))
    return ArrayPictures(pixels.to(torch.uint8), torch.zeros(count).long(), ("dim", "red"))


def _red(images: Tensor) -> Tensor:
    """Says "red" where the first channel is brighter than middle gray and the last is ignored."""
    redness = images[:, 0].mean(dim=(1, 2)) - 0.5
    return torch.stack([-redness, redness], dim=1)


def _perturbations(*channels: float) -> Tensor:
    return torch.tensor(channels)[None, :, None, None].expand(1, *SHAPE)


def test_a_reversed_perturbation_is_refused_with_both_rates() -> None:
    right, pictures = _perturbations(0.2, 0.0, 0.0), _pictures(200)
    check_channel_order(_red, pictures, right)
    fooled = (_red(pictures.batch(torch.arange(200))).argmax(dim=1) == 0).double().mean()
    with pytest.raises(DataError) as refused:
        check_channel_order(_red, pictures, right.flip(1))
    for part in ("BGR", "0.0% of 200", f"{fooled:.1%} with", "--perturbation-order bgr"):
        assert part in str(refused.value)


@pytest.mark.parametrize("channels", [(0.2, 0.0, 0.2), (0.2, -0.2, 0.19), (0.0, 0.2, 0.0)])
def test_what_fools_as_much_either_way_passes(channels: tuple[float, ...]) -> None:
    check_channel_order(_red, _pictures(200), _perturbations(*channels))


def test_few_pictures_prove_nothing() -> None:
    # Of four pictures one is fooled by the reversed form: a quarter, but one standard error.
    bright = torch.full((4, *SHAPE), 110, dtype=torch.uint8)
    bright[0] = 125
    pictures = ArrayPictures(bright, torch.zeros(4).long(), ("dim", "red"))
    check_channel_order(_red, pictures, _perturbations(0.0, 0.0, 0.02))


def test_gray_has_no_order() -> None:
    def never(images: Tensor) -> Tensor:
        raise AssertionError

    check_channel_order(never, _pictures(4), torch.full((1, 1, 4, 4), 0.1))


def test_the_work_is_bounded() -> None:
    seen = 0

    def counting(images: Tensor) -> Tensor:
        nonlocal seen
        seen += len(images)
        return _red(images)

    check_channel_order(counting, _pictures(PICTURES + 50), torch.full((9, *SHAPE), 0.1))
    assert seen == PICTURES * (1 + 2 * MEMBERS)
