"""Harmless changes, each against its arithmetic."""

import numpy as np
import pytest
import torch

from tests.tolerances import FILTERED, assert_close
from tests.training.small import everything, pictures
from training.evaluation.corruptions import (
    CORRUPTIONS,
    brightness,
    contrast,
    corrupted,
    gaussian_noise,
)
from training.evaluation.filters import jpeg


def _images() -> torch.Tensor:
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("factor", [0.75, 1.25])
def test_contrast_scales_around_the_mean_of_each_channel(factor: float) -> None:
    images = _images()
    values = images.double().numpy()
    mean = values.reshape(6, 3, -1).mean(axis=2)[:, :, None, None]
    expected = np.clip(mean + factor * (values - mean), 0, 1)
    assert_close(contrast(images, factor=factor).numpy(), expected, FILTERED)


@pytest.mark.parametrize("offset", [0.1, -0.1])
def test_brightness_is_an_offset(offset: float) -> None:
    images = _images()
    expected = np.clip(images.double().numpy() + offset, 0, 1)
    assert_close(brightness(images, offset=offset).numpy(), expected, FILTERED)


def test_noise_has_its_deviation_and_follows_the_generator() -> None:
    gray = torch.full((20, 3, 32, 32), 0.5)
    draws = [
        gaussian_noise(gray, torch.Generator().manual_seed(seed), deviation=0.04)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    noise = (draws[0] - gray).double().numpy()
    count = noise.size
    # Six standard errors of a mean, and of a deviation: sigma / sqrt(2 n).
    assert abs(noise.mean()) < 6 * 0.04 / count**0.5
    assert abs(noise.std() - 0.04) < 6 * 0.04 / (2 * count) ** 0.5


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_corrupted_pictures_are_8_bit_repeat_and_keep_their_labels(name: str) -> None:
    of = pictures(40)
    found = corrupted(of, name, seed=3)
    assert torch.equal(found.labels, of.labels)
    assert found.class_names == of.class_names
    assert torch.equal(everything(found), everything(corrupted(of, name, seed=3)))
    pixels = everything(found) * 255
    assert torch.equal(pixels, pixels.round())
    assert torch.equal(everything(found), everything(of)) == (name == "none")


def test_every_picture_is_corrupted_as_alone() -> None:
    of = pictures(40)
    assert torch.equal(
        everything(corrupted(of, "JPEG 50", seed=0)), jpeg(everything(of), quality=50)
    )
