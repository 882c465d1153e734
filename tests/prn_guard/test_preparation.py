"""Pixels on the classifier's own scale, against float64."""

import numpy as np
import pytest
import torch

from prn_guard.contract import InputSpec, InputTensor
from prn_guard.nn.target import Target
from prn_guard.preparation import to_tensor
from tests.tolerances import NORMALISED, assert_close

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def spec_of(**changes):
    usual = {"channels": 3, "height": 8, "width": 10, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    return InputSpec(**{**usual, **changes})


def tensor_of(layout, dtype="float32"):
    return InputTensor(name="data", dtype=dtype, layout=layout)


@pytest.fixture
def images():
    """`(4, 8, 10, 3)`: every value of a byte occurs."""
    return (
        np.random.default_rng(0)
        .permutation(np.arange(960) % 256)
        .astype(np.uint8)
        .reshape(4, 8, 10, 3)
    )


SPECS = [
    spec_of(**IMAGENET),
    spec_of(**IMAGENET, channel_order="bgr"),
    spec_of(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), pixel_range=255),
    spec_of(mean=(127.0,) * 3, std=(128.0,) * 3, pixel_range=255, channel_order="bgr"),
]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("spec", SPECS)
def test_equals_float64(images, spec, layout):
    result = to_tensor(images, spec, tensor_of(layout))
    pixels = images.astype(np.float64) / (255 if spec.pixel_range == 1 else 1)
    if spec.channel_order == "bgr":
        pixels = np.stack([pixels[..., 2], pixels[..., 1], pixels[..., 0]], axis=-1)
    oracle = (pixels - np.array(spec.mean)) / np.array(spec.std)
    if layout == "nchw":
        oracle = np.moveaxis(oracle, -1, 1)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    assert_close(result, oracle, NORMALISED)


@pytest.mark.parametrize("spec", SPECS[:2])
def test_has_the_very_bits_that_the_torch_side_feeds_its_classifier(images, spec):
    fed = Target(torch.nn.Identity(), spec)(
        torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32) / 255
    )
    np.testing.assert_array_equal(to_tensor(images, spec, tensor_of("nchw")), fed.numpy())


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_mean_0_and_std_1_leave_the_values_untouched(images, layout):
    raw = to_tensor(images, spec_of(pixel_range=255), tensor_of(layout))
    axes = (0, 3, 1, 2) if layout == "nchw" else (0, 1, 2, 3)
    np.testing.assert_array_equal(raw, images.transpose(axes))
    unit = to_tensor(images, spec_of(), tensor_of("nhwc"))
    np.testing.assert_array_equal(unit, images.astype(np.float32) / np.float32(255))


def test_pixels_pass_a_graph_that_scales_them_itself(images):
    spec = spec_of(**IMAGENET, channel_order="bgr")
    assert to_tensor(images, spec, tensor_of("nhwc", "uint8")) is images
    first = to_tensor(images, spec, tensor_of("nchw", "uint8"))
    np.testing.assert_array_equal(first, np.moveaxis(images, -1, 1))
    assert first.flags.c_contiguous
    assert first.dtype == np.uint8


def test_gray_and_the_input_is_left_alone(images):
    spec = spec_of(channels=1, mean=(0.5,), std=(0.25,), channel_order="gray")
    before = images.copy()
    result = to_tensor(images[..., :1], spec, tensor_of("nchw"))
    assert result.shape == (4, 1, 8, 10)
    assert_close(result[:, 0], (before[..., 0] / 255 - 0.5) / 0.25, NORMALISED)
    np.testing.assert_array_equal(images, before)
