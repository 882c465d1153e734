"""Every filter against an independent one, in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from prn_guard.errors import InvalidArgumentError
from tests.reference import filters as reference
from tests.tolerances import FILTERED, assert_close
from training.evaluation.filters import (
    bilateral_filter,
    gaussian_blur,
    jpeg,
    median_filter,
    reduce_bit_depth,
)


def _pictures(channels: int = 3, *, height: int = 9, width: int = 13) -> Tensor:
    generator = torch.Generator().manual_seed(channels)
    steps = torch.randint(0, 256, (4, channels, height, width), generator=generator)
    return steps / 255


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [50, 75])
def test_jpeg_is_pillows(channels: int, quality: int) -> None:
    images = _pictures(channels, height=17, width=24)
    expected = np.stack([reference.jpeg(one, quality) for one in images.double().numpy()])
    found = jpeg(images, quality=quality)
    assert np.array_equal(np.rint(found.numpy() * 255), np.rint(expected * 255))
    assert not torch.equal(found, images)


def test_less_quality_loses_more() -> None:
    images = gaussian_blur(_pictures(height=32, width=32), sigma=2.0)
    lost = [(jpeg(images, quality=q) - images).square().mean() for q in (90, 75, 50, 10)]
    assert lost == sorted(lost)


def test_bit_depth_rounds_to_even_steps() -> None:
    values = torch.arange(256).reshape(1, 1, 16, 16) / 255
    found = reduce_bit_depth(values, bits=3)
    expected = np.floor(np.arange(256) * 7 / 255 + 0.5) / 7
    assert_close(found.flatten().numpy(), expected, FILTERED)
    assert len(found.unique()) == 8
    assert torch.equal(reduce_bit_depth(values, bits=8), values)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (9, 13), (40, 30)])
def test_median_is_scipys(size: tuple[int, int]) -> None:
    images = _pictures(height=size[0], width=size[1])
    expected = ndimage.median_filter(images.numpy(), size=(1, 1, 3, 3), mode="nearest")
    assert np.array_equal(median_filter(images).numpy(), expected)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3])
def test_gaussian_is_scipys(sigma: float) -> None:
    images = _pictures()
    expected = ndimage.gaussian_filter(
        images.double().numpy(), sigma=(0, 0, sigma, sigma), mode="nearest"
    )
    assert_close(gaussian_blur(images, sigma=sigma).numpy(), expected, FILTERED)


@pytest.mark.parametrize("channels", [1, 3])
def test_bilateral_is_the_double_loop(channels: int) -> None:
    images = _pictures(channels)
    for radius, spatial, colour in ((2, 1.0, 0.1), (1, 0.7, 0.6)):
        expected = np.stack(
            [reference.bilateral(one, radius, spatial, colour) for one in images.numpy()]
        )
        found = bilateral_filter(
            images, radius=radius, spatial_sigma=spatial, range_sigma=colour
        ).numpy()
        assert_close(found, expected, FILTERED)


def test_bilateral_with_a_wide_range_is_a_plain_blur_and_with_a_narrow_one_nothing() -> None:
    images = _pictures()
    wide = bilateral_filter(images, radius=4, spatial_sigma=1.0, range_sigma=1e4)
    assert_close(wide.numpy(), gaussian_blur(images, sigma=1.0).numpy(), FILTERED)
    narrow = bilateral_filter(images, range_sigma=1e-4)
    assert_close(narrow.numpy(), images.numpy(), FILTERED)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda images: jpeg(images, quality=0),
        lambda images: jpeg(images[:, :2], quality=75),
        lambda images: reduce_bit_depth(images, bits=9),
        lambda images: gaussian_blur(images, sigma=0.0),
        lambda images: bilateral_filter(images, range_sigma=0.0),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected|takes"):
        wrong(_pictures())
