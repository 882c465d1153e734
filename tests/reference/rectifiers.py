"""The rectifiers' networks, convolution by convolution."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import correlate2d
from scipy.special import expit

Array = NDArray[np.float64]
Weights = Mapping[str, ArrayLike]


def space_to_depth(images: ArrayLike, factor: int) -> Array:
    """`(B, C*f*f, H/f, W/f)`: channel `c*f*f + i*f + j` holds pixel (i, j) of every cell."""
    pixels = np.asarray(images, dtype=np.float64)
    planes = [
        pixels[:, channel, i::factor, j::factor]
        for channel in range(pixels.shape[1])
        for i in range(factor)
        for j in range(factor)
    ]
    return np.stack(planes, axis=1)


def depth_to_space(features: Array, factor: int) -> Array:
    """The inverse of `space_to_depth`."""
    batch, depth, rows, columns = features.shape
    images = np.zeros((batch, depth // factor**2, rows * factor, columns * factor))
    for plane in range(depth):
        channel, cell = divmod(plane, factor**2)
        images[:, channel, cell // factor :: factor, cell % factor :: factor] = features[:, plane]
    return images


def rearranged_kernel(kernel: ArrayLike, factor: int) -> Array:
    """The 3x3 kernel after space-to-depth that a `3f` x `3f` kernel of stride `f` stands for."""
    weights = np.asarray(kernel, dtype=np.float64)
    return np.concatenate([space_to_depth(one[None], factor) for one in weights])


def convolve(images: ArrayLike, kernel: ArrayLike, bias: ArrayLike) -> Array:
    """3x3 convolution of stride 1 with zeros around the picture."""
    pixels, weights = np.asarray(images, np.float64), np.asarray(kernel, np.float64)
    out = [
        [
            sum(
                correlate2d(plane, part, mode="same")
                for plane, part in zip(image, one, strict=True)
            )
            + offset
            for one, offset in zip(weights, np.asarray(bias, np.float64), strict=True)
        ]
        for image in pixels
    ]
    return np.asarray(out)


def _layer(features: Array, weights: Weights, name: str) -> Array:
    return convolve(features, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _pointwise(features: Array, weights: Weights, name: str) -> Array:
    """A kernel of one pixel; one of more stands for that many channels after space-to-depth."""
    kernel, bias = np.asarray(weights[f"{name}.weight"]), np.asarray(weights[f"{name}.bias"])
    mapped = np.einsum("oc,bchw->bohw", kernel.reshape(len(kernel), -1), features)
    return np.asarray(mapped + bias[:, None, None], np.float64)


def _blocks(features: Array, weights: Weights, path: str = "") -> Array:
    own = f"{path}blocks."
    for number in range(sum(name.startswith(own) for name in weights) // 4):
        inner = np.maximum(_layer(features, weights, f"{own}{number}.first"), 0)
        features = np.maximum(features + _layer(inner, weights, f"{own}{number}.second"), 0)
    return features


def _mean(features: Array) -> Array:
    return features.mean(axis=(2, 3), keepdims=True)


def _coarser(features: Array, weights: Weights, path: str) -> tuple[Array, Array | None]:
    """The features that coarser levels add to, and the coarsest's mean."""
    coarse = np.maximum(_pointwise(space_to_depth(features, 2), weights, f"{path}down"), 0)
    mean = None
    if f"{path}context.weight" in weights:
        coarse = coarse + _pointwise(_mean(coarse), weights, f"{path}context")
    else:
        coarse, mean = _coarser(coarse, weights, f"{path}coarser.")
    coarse = _blocks(coarse, weights, path)
    up = depth_to_space(_pointwise(coarse, weights, f"{path}up"), 2)
    return np.maximum(features + up, 0), _mean(coarse) if mean is None else mean


def _gate(mean: Array, weights: Weights) -> Array:
    hidden = np.maximum(_pointwise(mean, weights, "gate.0"), 0)
    return np.asarray(expit(_pointwise(hidden, weights, "gate.2")))


def paper(images: ArrayLike, weights: Weights) -> Array:
    """The published network, clamped to [0, 1]."""
    entered = np.maximum(_layer(np.asarray(images, np.float64), weights, "entry"), 0)
    squeezed = np.maximum(_layer(_blocks(entered, weights), weights, "squeeze"), 0)
    return np.clip(_layer(squeezed, weights, "exit"), 0, 1)


def compact(images: ArrayLike, weights: Weights, *, factor: int, levels: int = 1) -> Array:
    """`clip(x + g(x))`, g at 1/factor of the resolution of the picture padded with zeros."""
    pixels = np.asarray(images, dtype=np.float64)
    height, width = pixels.shape[2:]
    multiple = factor * 2 ** (levels - 1)
    below, right = -height % multiple, -width % multiple
    folded = space_to_depth(np.pad(pixels, ((0, 0), (0, 0), (0, below), (0, right))), factor)
    kernel = rearranged_kernel(weights["entry.weight"], factor)
    features = np.maximum(convolve(folded, kernel, weights["entry.bias"]), 0)
    gate: float | Array = 1.0
    if levels > 1:
        features, mean = _coarser(features, weights, "coarser.")
        gate = _gate(mean, weights)
    residual = depth_to_space(_layer(_blocks(features, weights), weights, "exit"), factor) * gate
    return np.clip(pixels + residual[:, :, :height, :width], 0, 1)
