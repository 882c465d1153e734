"""The rectifiers against float64 convolutions, the paper's sizes, and what the identity needs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from prn_guard.nn.rectifier import (
    CompactRectifier,
    PaperRectifier,
    RectifierSpec,
    build_rectifier,
    default_spec,
    in_half_precision,
)
from tests.reference import rectifiers as reference
from tests.tolerances import CONVOLUTION, HALF_RECTIFIED, assert_close


def _images(channels: int, height: int, width: int, *, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, channels, height, width, generator=generator)


def _lively(rectifier: nn.Module, *, scale: float = 0.1) -> nn.Module:
    """Give every weight, the last layer's too, a random value."""
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for value in rectifier.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
    return rectifier


def _weights(rectifier: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in rectifier.state_dict().items()}


def _multiply_accumulates(rectifier: nn.Module, *, side: int) -> int:
    """Counted by hooks; on the meta device, so that nothing is computed."""
    counts: list[int] = []

    def count(layer: nn.Conv2d, _: tuple[Tensor, ...], output: Tensor) -> None:
        counts.append(output.numel() * layer.in_channels * math.prod(layer.kernel_size))

    for layer in rectifier.to("meta").modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    rectifier(torch.zeros(1, 3, side, side, device="meta"))
    return sum(counts)


def test_the_paper_architecture_has_the_papers_layers() -> None:
    layers = [layer for layer in PaperRectifier(3).modules() if isinstance(layer, nn.Conv2d)]
    shapes = [(layer.in_channels, layer.out_channels) for layer in layers]
    assert shapes == [(3, 64), *[(64, 64)] * 10, (64, 16), (16, 3)]
    for layer in layers:
        assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
    assert sum(value.numel() for value in PaperRectifier(3).parameters()) == 380_739


def test_the_cost_at_224_is_the_stated_one() -> None:
    spec = default_spec(3, 224, 224)
    assert (spec.architecture, spec.factor, spec.width) == ("compact", 4, 32)
    assert (spec.blocks, spec.levels) == (1, 3)
    assert _multiply_accumulates(PaperRectifier(3), side=224) / 1e9 == pytest.approx(
        19.07, abs=5e-3
    )
    assert _multiply_accumulates(build_rectifier(spec), side=224) / 1e9 == pytest.approx(
        0.286, abs=5e-4
    )


def test_the_cost_at_32_is_the_stated_one() -> None:
    rectifier = build_rectifier(default_spec(3, 32, 32))
    assert _multiply_accumulates(rectifier, side=32) / 1e6 == pytest.approx(9.8, abs=0.05)


def test_small_pictures_keep_their_resolution() -> None:
    assert default_spec(3, 32, 32).factor == default_spec(1, 64, 64).factor == 1
    assert default_spec(3, 32, 65).factor == 4


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3])
def test_the_paper_architecture_computes_its_convolutions(channels: int) -> None:
    rectifier, images = (
        _lively(PaperRectifier(channels), scale=0.04),
        _images(channels, 9, 8, count=1),
    )
    result = rectifier(images)
    assert float(((result > 0) & (result < 1)).double().mean()) > 0.1
    assert_close(result, reference.paper(images, _weights(rectifier)), CONVOLUTION)


@torch.no_grad()
@pytest.mark.parametrize(
    ("channels", "factor", "height", "width"),
    [(3, 1, 9, 8), (1, 2, 8, 12), (3, 4, 16, 12), (3, 4, 10, 13), (1, 3, 8, 10), (3, 8, 9, 17)],
)
def test_the_compact_architecture_works_at_space_to_depth_resolution(
    channels: int, factor: int, height: int, width: int
) -> None:
    rectifier = _lively(CompactRectifier(channels, factor=factor, width=6, blocks=2))
    images = _images(channels, height, width)
    result = rectifier(images)
    assert result.shape == images.shape
    assert float((result - images).abs().mean()) > 0.05
    assert_close(result, reference.compact(images, _weights(rectifier), factor=factor), CONVOLUTION)


@torch.no_grad()
@pytest.mark.parametrize(
    ("channels", "factor", "levels", "height", "width"),
    [(3, 1, 2, 8, 6), (1, 1, 3, 8, 12), (3, 2, 3, 10, 13), (1, 3, 2, 8, 10)],
)
def test_coarser_levels_add_to_the_finest(
    channels: int, factor: int, levels: int, height: int, width: int
) -> None:
    compact = CompactRectifier(channels, factor=factor, width=4, blocks=2, levels=levels)
    rectifier, images = _lively(compact), _images(channels, height, width)
    result = rectifier(images)
    expected = reference.compact(images, _weights(rectifier), factor=factor, levels=levels)
    finest = {name: value for name, value in _weights(rectifier).items() if "coarser" not in name}
    alone = reference.compact(images, finest, factor=factor)
    assert float(np.abs(expected - alone).mean()) > 0.01
    assert_close(result, expected, CONVOLUTION)


@torch.no_grad()
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_strided_convolution_is_space_to_depth_and_a_small_one(factor: int) -> None:
    entry = CompactRectifier(3, factor=factor, width=5, blocks=1).entry
    images = _images(3, 4 * factor, 3 * factor)
    folded = reference.space_to_depth(images, factor)
    kernel = reference.rearranged_kernel(entry.weight, factor)
    assert kernel.shape == (5, 3 * factor**2, 3, 3)
    assert_close(entry(images), reference.convolve(folded, kernel, entry.bias), CONVOLUTION)


@torch.no_grad()
def test_padding_is_nothing_but_zeros_below_and_to_the_right() -> None:
    rectifier, images = (
        _lively(CompactRectifier(3, factor=4, width=6, blocks=1)),
        _images(3, 10, 13),
    )
    padded = torch.zeros(2, 3, 12, 16)
    padded[:, :, :10, :13] = images
    assert torch.equal(rectifier(images), rectifier(padded)[:, :, :10, :13])


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(
    factor=st.integers(1, 8),
    levels=st.integers(1, 3),
    height=st.integers(8, 27),
    width=st.integers(8, 27),
    channels=st.sampled_from([1, 3]),
)
def test_a_compact_rectifier_starts_as_the_exact_identity(
    factor: int, levels: int, height: int, width: int, channels: int
) -> None:
    rectifier = CompactRectifier(channels, factor=factor, width=3, blocks=1, levels=levels)
    images = _images(channels, height, width)
    assert torch.equal(rectifier(images), images)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["paper", "compact"])
def test_the_output_is_kept_in_the_pixel_range(architecture: str) -> None:
    spec = RectifierSpec.model_validate(
        {"architecture": architecture, "channels": 1, "width": 8, "blocks": 1}
    )
    result = _lively(build_rectifier(spec), scale=1.0)(_images(1, 12, 12))
    assert (float(result.min()), float(result.max())) == (0.0, 1.0)


@pytest.mark.parametrize("architecture", ["paper", "compact"])
def test_weights_are_a_function_of_the_generator_alone(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(seed: int) -> None:
        raise AssertionError(f"the CUDA generators were seeded with {seed}")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    spec = RectifierSpec.model_validate({"architecture": architecture, "channels": 1})

    def entry(seed: int) -> Tensor:
        built = build_rectifier(spec, generator=torch.Generator().manual_seed(seed))
        return built.state_dict()["entry.weight"]

    before = torch.get_rng_state()
    first = entry(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(entry(1), first)
    assert not torch.equal(entry(2), first)


@pytest.mark.parametrize(
    "change",
    [{"channels": 2}, {"factor": 0}, {"factor": 9}, {"width": 0}, {"levels": 0}, {"depth": 3}],
)
def test_sizes_that_make_no_rectifier_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        RectifierSpec.model_validate({"channels": 3, **change})


def _full_and_half(architecture: str, channels: int) -> tuple[nn.Module, nn.Module]:
    """A rectifier that changes pictures by some hundredths, and its half-precision copy."""
    if architecture == "paper":
        full: nn.Module = _lively(PaperRectifier(channels), scale=0.04)
    else:
        compact = CompactRectifier(channels, factor=2, width=6, blocks=1, levels=2)
        full = _lively(compact, scale=0.05)
    return full, in_half_precision(full)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["paper", "compact"])
@pytest.mark.parametrize("channels", [1, 3])
def test_half_precision_moves_pixels_by_less_than_it_removes(
    architecture: str, channels: int
) -> None:
    full, half = _full_and_half(architecture, channels)
    images = _images(channels, 11, 14, count=4)
    result, expected = half(images), full(images)
    assert result.dtype == torch.float32
    assert float((images - expected).abs().mean()) > 0.01
    assert_close(result, expected, HALF_RECTIFIED)
    assert not torch.equal(result, expected)


@torch.no_grad()
def test_the_sum_of_a_half_compact_rectifier_is_float32() -> None:
    """What changes nothing gives the very pictures back: float16 would round them to 1/2048."""
    half = in_half_precision(CompactRectifier(3, factor=2, width=6, blocks=2))
    images = _images(3, 11, 14)
    assert torch.equal(half(images), images)
    assert not torch.equal(images.half().float(), images)
    full = _lively(CompactRectifier(3, factor=2, width=6, blocks=2), scale=0.05)
    residuals: list[Tensor] = []
    changed = in_half_precision(full)
    changed.exit.register_forward_hook(lambda _, __, out: residuals.append(out))
    result = changed(images)
    (residual,) = residuals
    assert residual.dtype == torch.float16
    shuffled = torch.nn.functional.pixel_shuffle(residual.float(), 2)[:, :, :11, :14]
    assert torch.equal(result, (images + shuffled).clamp(0, 1))


@torch.no_grad()
def test_the_last_layer_of_a_half_paper_rectifier_is_float32() -> None:
    _, half = _full_and_half("paper", 3)
    kinds = {name: value.dtype for name, value in half.named_parameters()}
    last = {name for name, kind in kinds.items() if kind == torch.float32}
    assert last == {"exit.weight", "exit.bias"}
    assert set(kinds.values()) == {torch.float16, torch.float32}
    half.exit.bias.fill_(0.7)
    result = half(_images(3, 11, 14))
    inside = result[(result > 0.5) & (result < 1)]
    assert not torch.equal(inside.half().float(), inside)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["paper", "compact"])
def test_half_precision_leaves_the_full_rectifier_alone(architecture: str) -> None:
    full, half = _full_and_half(architecture, 1)
    before = {name: value.clone() for name, value in full.state_dict().items()}
    for value in half.parameters():
        value.zero_()
    for name, value in full.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])
