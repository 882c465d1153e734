"""Perlin's noise against plain loops, and what its construction promises."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from tests.reference import procedural as reference
from tests.tolerances import LATTICE_SLOPE, TEXTURE, assert_close
from training.attacks.perlin import draw_perlin, gradient_noise, perlin_noise, sine_colour_map


def _seed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _gradients(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    angles = torch.rand(rows, columns, generator=_seed(seed)) * 2 * math.pi
    return torch.stack([angles.sin(), angles.cos()], dim=-1)


def test_gradient_noise_agrees_with_a_loop_over_points_and_corners() -> None:
    rows = torch.rand(9, generator=_seed(1)) * 4
    columns = torch.rand(13, generator=_seed(2)) * 6
    gradients = _gradients(6, 8)
    expected = reference.gradient_noise(
        rows.double().numpy(), columns.double().numpy(), gradients.double().numpy()
    )
    assert_close(gradient_noise(rows, columns, gradients), expected, TEXTURE)
    assert np.abs(expected).max() > 0.3


def test_gradient_noise_is_zero_on_the_lattice_and_rises_there_along_its_gradient() -> None:
    whole, gradients = torch.arange(5.0), _gradients(7, 7)
    assert torch.equal(gradient_noise(whole, whole, gradients), torch.zeros(5, 5))
    near = 1 / 1024
    for axis, (down, right) in enumerate([(near, 0.0), (0.0, near)]):
        beside = gradient_noise(whole + down, whole + right, gradients)
        assert_close(beside / near, gradients[:5, :5, axis], LATTICE_SLOPE)


def test_moving_by_a_lattice_unit_is_moving_the_gradients() -> None:
    rows, columns, gradients = torch.arange(0, 3, 0.25), torch.arange(0, 2, 0.125), _gradients(6, 6)
    moved = gradient_noise(rows + 1, columns + 2, gradients)
    assert torch.equal(moved, gradient_noise(rows, columns, gradients[1:, 2:]))


def test_noise_is_smooth_at_the_scale_of_its_period_in_each_direction() -> None:
    noise = perlin_noise(64, 64, periods=(32.0, 4.0), octaves=1, generator=_seed())
    down, right = noise.diff(dim=0).abs().mean(), noise.diff(dim=1).abs().mean()
    assert 4 < float(right / down) < 16


def test_octaves_add_detail_of_lower_amplitude() -> None:
    def spectrum(octaves: int) -> torch.Tensor:
        noise = perlin_noise(64, 64, periods=(32.0, 32.0), octaves=octaves, generator=_seed(3))
        return torch.fft.rfft2(noise).abs()[8:57, 8:].square().mean()

    assert float(spectrum(4)) > 20 * float(spectrum(1))
    one, two = (
        perlin_noise(32, 32, periods=(16.0, 16.0), octaves=octaves, generator=_seed(3))
        for octaves in (1, 2)
    )
    assert 0.3 < float((two - one).std() / one.std()) < 0.8


def test_the_sine_map_makes_more_bands_of_a_higher_frequency() -> None:
    slope = torch.linspace(0, 1, 401)
    for frequency in (1.0, 4.0):
        crossings = int((sine_colour_map(slope, frequency)[1:-1].sign().diff() != 0).sum())
        assert crossings == 2 * frequency - 1
    assert float(sine_colour_map(torch.tensor(1 / 16), 4.0)) == 1.0


@pytest.mark.parametrize(("height", "width"), [(28, 28), (1, 7), (33, 12), (224, 224)])
def test_a_drawn_texture_has_the_size_of_the_picture_and_repeats(height: int, width: int) -> None:
    first, second = (draw_perlin(height, width, _seed(4)) for _ in range(2))
    assert (first.shape, first.dtype) == ((height, width), torch.float32)
    assert torch.equal(first, second)
    assert float(first.abs().max()) <= 1


def test_draws_differ() -> None:
    generator = _seed()
    textures = [draw_perlin(16, 16, generator).flatten() for _ in range(10)]
    for one, other in product(range(10), range(10)):
        if one < other:
            assert (
                abs(float(torch.corrcoef(torch.stack([textures[one], textures[other]]))[0, 1]))
                < 0.5
            )
