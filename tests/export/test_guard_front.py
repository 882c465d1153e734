"""What the classifier gets: the client's own bits, or the rectified picture on the same scale."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.guard_front import GuardFront
from prn_guard.contract import UINT8_NHWC, InputSpec, InputTensor
from prn_guard.nn.detector import DetectorSpec, build_detector
from tests.tolerances import SCALED, assert_close

SIDE = 8
MEAN, STD = (0.5, 0.25, 0.125), (0.25, 0.5, 0.3)


class Halving(nn.Module):
    """A rectifier that anybody can compute."""

    def forward(self, images: Tensor) -> Tensor:
        return images / 2


def _spec(**changes: object) -> InputSpec:
    usual = {"channels": 3, "height": SIDE, "width": SIDE, "mean": MEAN, "std": STD}
    return InputSpec.model_validate(usual | changes)


SPECS = {
    "plain": _spec(mean=(0.0,) * 3, std=(1.0,) * 3),
    "normalised": _spec(),
    "bytes": _spec(mean=(0.0,) * 3, std=(1.0,) * 3, pixel_range=255),
    "caffe": _spec(
        mean=(103.9, 116.8, 123.7), std=(1.0,) * 3, pixel_range=255, channel_order="bgr"
    ),
    "channels last": _spec(layout="nhwc", channel_order="bgr"),
}


def _pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3)).astype(np.uint8)


def _on_own_scale(unit: NDArray[np.float64], spec: InputSpec) -> NDArray[np.float64]:
    """NHWC RGB pixels in [0, 1] as the classifier takes them, in float64."""
    ordered = unit[..., ::-1] if spec.channel_order == "bgr" else unit
    scaled = (ordered * spec.pixel_range - np.array(spec.mean)) / np.array(spec.std)
    return scaled if spec.layout == "nhwc" else scaled.transpose(0, 3, 1, 2)


def _front(spec: InputSpec, tensor: InputTensor, threshold: float) -> GuardFront:
    detector = build_detector(DetectorSpec(), SIDE, SIDE)
    detector.weight.fill_(0.1)
    detector.threshold.fill_(threshold)
    return GuardFront(Halving(), detector, spec, tensor).eval()


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("flagged", [True, False])
@torch.no_grad()
def test_pixels_reach_the_classifier_on_its_scale(name: str, *, flagged: bool) -> None:
    spec, pixels = SPECS[name], _pixels()
    front = _front(spec, UINT8_NHWC, -1e9 if flagged else 1e9)
    chosen, _, flags = front(torch.from_numpy(pixels))
    assert (flags == flagged).all()
    unit = pixels.astype(np.float64) / 255
    assert_close(chosen, _on_own_scale(unit / 2 if flagged else unit, spec), SCALED)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("flagged", [True, False])
@torch.no_grad()
def test_a_drop_in_takes_and_passes_the_classifiers_own_scale(name: str, *, flagged: bool) -> None:
    spec = SPECS[name]
    tensor = InputTensor(name="x", dtype="float32", layout=spec.layout)
    unit = _pixels().astype(np.float64) / 255
    own = torch.from_numpy(_on_own_scale(unit, spec)).float().contiguous()
    chosen, _, flags = _front(spec, tensor, -1e9 if flagged else 1e9)(own)
    assert (flags == flagged).all()
    if flagged:
        assert_close(chosen, _on_own_scale(unit / 2, spec), SCALED)
    else:
        assert torch.equal(chosen, own)  # bit for bit, whatever the scale


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_both_inputs_are_scored_alike(name: str) -> None:
    spec, pixels = SPECS[name], _pixels()
    tensor = InputTensor(name="x", dtype="float32", layout=spec.layout)
    own = torch.from_numpy(_on_own_scale(pixels.astype(np.float64) / 255, spec)).float()
    as_bytes = _front(spec, UINT8_NHWC, 0.0)(torch.from_numpy(pixels))[1]
    as_floats = _front(spec, tensor, 0.0)(own.contiguous())[1]
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    expected = _front(spec, UINT8_NHWC, 0.0).detector(images - images / 2)
    assert torch.equal(as_bytes, expected)
    assert_close(as_floats, expected, SCALED)


@torch.no_grad()
def test_bytes_on_a_scale_of_bytes_stay_integers() -> None:
    """Dividing by 255 and multiplying again is not exact, so it must not happen."""
    pixels = np.arange(256, dtype=np.uint8).reshape(1, SIDE, SIDE, 4)[..., :3]
    chosen = _front(SPECS["bytes"], UINT8_NHWC, 1e9)(torch.from_numpy(pixels.copy()))[0]
    assert np.array_equal(chosen.numpy(), pixels.transpose(0, 3, 1, 2).astype(np.float32))
