"""Five places against slicing by hand, and resizing against Pillow and NumPy."""

import numpy as np
import pytest
import torch
from PIL import Image

from prn_guard.errors import DataError, InvalidArgumentError
from training.datasets.fitting import Fitting, check_fit, draw_places, fit, to_images


def _noise(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_the_five_places_are_the_corners_and_the_center() -> None:
    pixels = _noise(3, 11, 14)
    expected = [
        pixels[:, :8, :8],
        pixels[:, :8, 6:],
        pixels[:, 3:, :8],
        pixels[:, 3:, 6:],
        pixels[:, 1:9, 3:11],
    ]
    fitting = Fitting((3, 8, 8))
    for place, slice_ in enumerate(expected):
        assert torch.equal(fit(pixels, fitting, place), slice_)


def test_places_are_drawn_evenly_and_repeat_under_a_seed() -> None:
    places = draw_places(5000, torch.Generator().manual_seed(1))
    assert places == draw_places(5000, torch.Generator().manual_seed(1))
    # 1,000 expected each; six standard deviations are 170.
    assert all(830 < places.count(place) < 1170 for place in range(5))
    assert draw_places(3, None) == [4, 4, 4]


def test_without_a_generator_no_random_number_is_used() -> None:
    state = torch.get_rng_state()
    draw_places(9, None)
    draw_places(9, torch.Generator().manual_seed(1))
    assert torch.equal(state, torch.get_rng_state())


def test_halving_averages_with_the_triangle_filter() -> None:
    # Antialiased bilinear by 2: weights 1/8, 3/8, 3/8, 1/8 over four neighbours, inner rows only.
    pixels = _noise(1, 16, 16)
    weights = np.zeros((8, 16))
    for row in range(8):
        taps = {2 * row - 1: 1, 2 * row: 3, 2 * row + 1: 3, 2 * row + 2: 1}
        inside = {column: weight for column, weight in taps.items() if 0 <= column < 16}
        for column, weight in inside.items():
            weights[row, column] = weight / sum(inside.values())
    expected = weights @ pixels[0].numpy().astype(np.float64) @ weights.T
    resized = fit(pixels, Fitting((1, 8, 8), resize=8))[0].numpy()
    assert np.abs(resized - expected).max() <= 0.5 + 1e-4


def test_resize_keeps_the_aspect_and_is_close_to_pillow() -> None:
    pixels = _noise(3, 40, 60)
    resized = fit(pixels, Fitting((3, 20, 30), resize=20))
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    reference = np.asarray(picture.resize((30, 20), Image.Resampling.BILINEAR))
    # Pillow rounds after each of its two passes, which is good for one gray level.
    assert np.abs(resized.permute(1, 2, 0).numpy().astype(int) - reference).max() <= 1


def test_gray_is_replicated_for_an_rgb_target() -> None:
    pixels = _noise(1, 8, 8)
    assert torch.equal(fit(pixels, Fitting((3, 8, 8))), torch.cat([pixels] * 3))


def test_pixels_are_divided_by_255() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    expected = (np.arange(256, dtype=np.float64) / 255).astype(np.float32)
    assert np.array_equal(to_images(levels).numpy(), expected)


@pytest.mark.parametrize(
    ("shape", "fitting", "message"),
    [
        ((1, 27, 28), Fitting((1, 28, 28)), r"28x28.*--resize 28"),
        ((3, 28, 28), Fitting((1, 28, 28)), r"3 channels.*takes 1.*gray"),
        ((3, 49, 60), Fitting((3, 32, 32)), r"49x60.*1\.5 times.*--resize 37"),
        ((3, 64, 64), Fitting((3, 32, 32), resize=31), r"31x31.*after resize to 31"),
        ((3, 1, 100_000), Fitting((3, 224, 224), resize=256), "more than .* pixels"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(
    shape: tuple[int, int, int], fitting: Fitting, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        check_fit(shape, fitting, "cat.png")


@pytest.mark.parametrize(
    ("shape", "fitting"),
    [
        ((3, 48, 90), Fitting((3, 32, 32))),
        ((3, 256, 256), Fitting((3, 224, 224))),
        ((1, 28, 28), Fitting((3, 32, 32), resize=32)),
        ((3, 900, 700), Fitting((3, 224, 224), resize=256)),
    ],
)
def test_pictures_that_fit_pass(shape: tuple[int, int, int], fitting: Fitting) -> None:
    check_fit(shape, fitting, "cat.png")
    assert fit(torch.zeros(shape, dtype=torch.uint8), fitting).shape == fitting.size


@pytest.mark.parametrize("size", [(2, 8, 8), (3, 0, 8), (3, 8)])
def test_a_size_that_is_none_is_refused(size: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidArgumentError, match="channels, height, width"):
        Fitting(size)


def test_a_resize_below_one_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="resize is 0"):
        Fitting((3, 8, 8), resize=0)
