"""Gabor noise against a direct sum of kernels, and what its parameters do."""

import math

import pytest
import torch

from tests.reference import procedural as reference
from tests.tolerances import TEXTURE, assert_close
from training.attacks.gabor import draw_gabor, gabor_kernel, gabor_noise, sparse_convolution


def _seed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("directions", [1, 3])
def test_sparse_convolution_is_the_sum_of_the_kernels(directions: int) -> None:
    shape = {"sigma": 1.3, "wavelength": 3.7, "orientation": 0.6}
    kernel = gabor_kernel(**shape, directions=directions)
    radius = math.ceil(3 * 1.3)
    assert kernel.shape == (2 * radius + 1, 2 * radius + 1)
    impulses = torch.randn(7 + 2 * radius, 11 + 2 * radius, generator=_seed())
    impulses *= torch.rand(impulses.shape, generator=_seed(1)) < 0.2
    expected = reference.gabor_sum(
        impulses.double().numpy(), radius=radius, directions=directions, **shape
    )
    assert_close(sparse_convolution(impulses, kernel), expected, TEXTURE)


def test_moving_an_impulse_moves_its_kernel() -> None:
    kernel = gabor_kernel(sigma=1.0, wavelength=3.0, orientation=0.4)
    impulses = torch.zeros(18, 18)
    impulses[8, 9] = 0.7
    noise = sparse_convolution(impulses, kernel)
    moved = sparse_convolution(impulses.roll((1, 2), dims=(0, 1)), kernel)
    assert torch.equal(moved, noise.roll((1, 2), dims=(0, 1)))
    assert_close(noise[2:9, 3:10], 0.7 * kernel, TEXTURE)


@pytest.mark.parametrize("orientation", [0.0, math.pi / 4, math.pi / 2])
def test_the_spectrum_peaks_at_the_wavelength_and_orientation(orientation: float) -> None:
    """Within two standard deviations of the envelope's own spectrum."""
    noise = gabor_noise(
        64, 64, sigma=8.0, wavelength=8.0, orientation=orientation, generator=_seed(2)
    )
    power = torch.fft.fftshift(torch.fft.fft2(noise)).abs().square()
    row, column = divmod(int(power.argmax()), 64)
    found = math.hypot(row - 32, column - 32), math.atan2(row - 32, column - 32) % math.pi
    assert abs(found[0] - 64 / 8) < 2 * 64 / (2 * math.pi * 8.0)
    turned = abs(found[1] - orientation)
    assert min(turned, math.pi - turned) < 2 / (2 * math.pi)


def test_many_directions_make_it_isotropic() -> None:
    def lopsidedness(directions: int) -> float:
        noise = gabor_noise(
            128, 128, sigma=4.0, wavelength=6.0, orientation=0.0, directions=directions,
            generator=_seed(3),
        )  # fmt: skip
        down, right = noise.diff(dim=0).square().mean(), noise.diff(dim=1).square().mean()
        return float(right / down)

    assert lopsidedness(1) > 5
    assert 0.7 < lopsidedness(8) < 1.4


def test_noise_does_not_fade_at_the_border() -> None:
    noise = torch.stack([
        gabor_noise(24, 24, sigma=3.0, wavelength=5.0, orientation=1.0, generator=_seed(seed))
        for seed in range(200)
    ])  # fmt: skip
    power = noise.square().mean(dim=0)
    assert 0.7 < float(power[0].mean() / power[10:14, 10:14].mean()) < 1.4
    assert abs(float(noise.mean())) < 0.05 * float(noise.std())


@pytest.mark.parametrize(("height", "width"), [(28, 28), (1, 7), (33, 12), (224, 224)])
def test_a_drawn_texture_has_the_size_of_the_picture_and_repeats(height: int, width: int) -> None:
    first, second = (draw_gabor(height, width, _seed(4)) for _ in range(2))
    assert (first.shape, first.dtype) == ((height, width), torch.float32)
    assert torch.equal(first, second)
    assert float(first.std()) > 0
