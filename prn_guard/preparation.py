"""Bring pixels to the scale and layout of the graph's input, in NumPy float32.

A drop-in graph takes what the wrapped classifier took; its clients did the normalising, and here
the runtime does it for them.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from prn_guard.contract import InputSpec, InputTensor

Tensor = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


def to_tensor(images: Tensor, spec: InputSpec, tensor: InputTensor) -> Tensor:
    """What the graph takes for `images`.

    Args:
        images: `(B, H, W, C)` uint8 in 0..255, RGB or gray, B at least 1; or float32 on that scale.
        spec: the classifier's own scale.
        tensor: the graph's input. uint8: pixels as they are, since the graph scales them itself.
            float32: `(x / 255 - mean) / std`, or `(x - mean) / std` for a range of 255, in the
            classifier's channel order; mean 0 and std 1 leave the values untouched.

    Returns:
        `(B, H, W, C)` or `(B, C, H, W)`, C-contiguous; not copied where nothing changes.
    """
    values: npt.NDArray[Any] = images if tensor.dtype == "uint8" else _normalised(images, spec)
    return np.ascontiguousarray(values if tensor.layout == "nhwc" else values.transpose(0, 3, 1, 2))


def _normalised(images: Tensor, spec: InputSpec) -> npt.NDArray[np.float32]:
    """The same pixels on the classifier's scale, channels last.

    Every step is one float32 operation, as in torch: dividing by 255 first and multiplying by it
    again would not always give back the integer that was stored.
    """
    ordered = images[..., ::-1] if spec.channel_order == "bgr" else images
    values = ordered.astype(np.float32)
    if spec.pixel_range == 1:
        values /= np.float32(255)
    values -= np.asarray(spec.mean, dtype=np.float32)
    values /= np.asarray(spec.std, dtype=np.float32)
    return values


def to_pixels(values: Tensor, spec: InputSpec, tensor: InputTensor) -> npt.NDArray[np.uint8]:
    """The pictures that `to_tensor` would have made `values` of, rounded to whole pixel values.

    Args:
        values: `(B, H, W, C)` or `(B, C, H, W)`, as `tensor` says. Float values that no pixel gives
            become the nearest one.
        spec: the classifier's own scale.
        tensor: the graph's input.

    Returns:
        `(B, H, W, C)` uint8 in 0..255, RGB or gray.
    """
    last: npt.NDArray[Any] = values if tensor.layout == "nhwc" else values.transpose(0, 2, 3, 1)
    if tensor.dtype == "float32":
        scale = 255.0 if spec.pixel_range == 1 else 1.0
        pixels = (last.astype(np.float64) * spec.std + spec.mean) * scale
        ordered = pixels[..., ::-1] if spec.channel_order == "bgr" else pixels
        last = ordered.round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(last)
