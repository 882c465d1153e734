"""Perturbations made elsewhere, checked for scale, layout and size before they are used.

What they were made for is stated, never guessed: the scale of the pixels, where the channels stand,
and in which order. A statement that the numbers contradict is refused. The order of the channels
cannot be seen in the numbers; `training.perturbations.channel_order` asks a classifier.
"""

from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor

from prn_guard.errors import DataError, InvalidArgumentError
from training.attacks.norms import Norm, check_ball, norm_of
from training.datasets.fitting import Shape
from training.perturbations.perturbation_files import READERS, read_array

Layout = Literal["chw", "hwc"]
ChannelOrder = Literal["rgb", "bgr"]

BALL_SLACK: Final = 1e-3
"""Relative; a perturbation kept in float16 is rounded by up to 5e-4 of its values."""
SCALE_OPTION: Final = "--perturbation-scale"
LAYOUT_OPTION: Final = "--perturbation-layout"
TO_STATE: Final = f"If they are for pixels in 0..255, state {SCALE_OPTION} 255"


def load_perturbations(
    path: Path,
    shape: Shape,
    *,
    scale: int | None = None,
    layout: Layout | None = None,
    channel_order: ChannelOrder | None = None,
    key: str | None = None,
) -> Tensor:
    """Read one or several universal perturbations.

    Args:
        path: `.safetensors`, `.npy`, `.npz`, `.mat` (of any version from 4 to 7.3), `.h5`,
            `.hdf5`, `.pt` or `.pth`, at most 1 GiB. Nothing is unpickled.
        shape: `(C, H, W)` of the target's pictures.
        scale: 255 where the values are for pixels in 0..255; they are divided by 255. 1 or None:
            they are for pixels in [0, 1].
        layout: `hwc` where channels come last; they are moved first. None is `chw`. For gray
            pictures `(H, W)` is taken with either.
        channel_order: `bgr` where blue comes first; channels are reversed. None is `rgb`.
        key: name of the array in a file with several; None takes the one named `perturbations`,
            or else the only one.

    Returns:
        `(P, C, H, W)` float32, to be added to pixels in [0, 1], RGB.

    Raises:
        DataError: the file is missing, damaged or of another kind; values are not finite or all
            0; or they contradict the scale or layout stated.
        InvalidArgumentError: an unknown scale, layout or order, or an order stated for gray.
    """
    _check_statements(shape, scale, layout, channel_order)
    if not path.is_file():
        raise DataError(f"There is no perturbation file {path}. Check the path.")
    try:
        array = read_array(path, key)
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read as perturbations: {error}. Give one of {', '.join(READERS)}, "
            "whole and without pickled objects."
        ) from error
    except Exception as error:  # the libraries raise classes of their own on damaged files
        raise DataError(
            f"{path} is refused: {error}. Save the tensor alone, or as .safetensors or .npy."
        ) from error
    stack = _channels_first(array, path, shape, layout or "chw")
    values = _on_unit_pixels(stack, path, scale or 1)
    return (values.flip(1) if channel_order == "bgr" else values).contiguous()


def check_inside(perturbations: Tensor, norm: Norm, epsilon: float) -> None:
    """Refuse perturbations `(P, C, H, W)` outside the ball they are said to lie in.

    Raises:
        DataError: with the number and the norm of the one that goes furthest beyond.
        InvalidArgumentError: a ball that makes no sense on [0, 1] pixels.
    """
    check_ball(norm, epsilon, tuple(perturbations.shape[1:]))
    norms = norm_of(perturbations.double(), norm)
    largest = float(norms.max())
    if largest > epsilon * (1 + BALL_SLACK):
        figures = f"{largest:.4g}, and epsilon is {epsilon:.4g}"
        if norm == "linf":
            figures += f" ({255 * largest:.4g}/255 and {255 * epsilon:.4g}/255)"
        raise DataError(
            f"Perturbation {int(norms.argmax()) + 1} of {len(perturbations)} lies outside the "
            f"ball: its {norm} norm is {figures}, on [0, 1] pixels. State the norm and epsilon "
            "that it was made with."
        )


def _check_statements(
    shape: Shape, scale: int | None, layout: str | None, channel_order: str | None
) -> None:
    for name, stated, allowed in (
        ("scale", scale, (1, 255)),
        ("layout", layout, ("chw", "hwc")),
        ("channel_order", channel_order, ("rgb", "bgr")),
    ):
        if stated is not None and stated not in allowed:
            choices = " or ".join(repr(one) for one in allowed)
            raise InvalidArgumentError(f"{name} is {stated!r}; expected {choices}.")
    if channel_order is not None and shape[0] != 3:
        raise InvalidArgumentError(
            f"channel_order is {channel_order!r}, but the pictures have {shape[0]} channel(s): "
            "there is no order to state. Leave it out."
        )


def _channels_first(array: Tensor, path: Path, shape: Shape, layout: Layout) -> Tensor:
    """The array as `(P, C, H, W)`, or the reason why it is none."""
    channels, height, width = shape
    first, last = (channels, height, width), (height, width, channels)
    wanted, other = (first, last) if layout == "chw" else (last, first)
    if array.ndim == 2 and channels == 1:
        array = array[None] if layout == "chw" else array[..., None]
    if array.ndim == 3:
        array = array[None]
    found = tuple(array.shape)
    if array.ndim == 4 and len(array) and found[1:] == wanted:
        return array if layout == "chw" else array.permute(0, 3, 1, 2)
    hint = ""
    if array.ndim == 4 and found[1:] == other:
        hint = (
            f" They are channels last (HWC): state {LAYOUT_OPTION} hwc."
            if layout == "chw"
            else f" They are channels first (CHW) already: leave out {LAYOUT_OPTION} hwc."
        )
    elif array.ndim == 4 and found[:3] in {first, last}:
        hint = " The stack runs along the last axis: move that axis to the front."
    raise DataError(
        f"{path} holds perturbations of shape {found}; expected "
        f"{'(channels, height, width)' if layout == 'chw' else '(height, width, channels)'} = "
        f"{wanted}, or a stack of them.{hint}"
    )


def _on_unit_pixels(stack: Tensor, path: Path, scale: int) -> Tensor:
    """Float32 values for pixels in [0, 1]; refused where the scale stated cannot be theirs."""
    _check_type(stack, path, scale)
    values = stack.float()
    if not bool(torch.isfinite(values).all()):
        raise DataError(f"{path} holds values that are not finite. Make the perturbation anew.")
    largest = values.abs().flatten(1).amax(dim=1)
    most, least = float(largest.max()), float(largest.min())
    if least == 0:
        raise DataError(
            f"{path}: perturbation {int(largest.argmin()) + 1} of {len(values)} is 0 everywhere; "
            "expected values above 0 in size. Leave it out, or make it anew."
        )
    if scale == 1 and most > 1:
        raise DataError(
            f"The largest value of {path} is {most:.4g}, as on the 0-255 scale; perturbations are "
            f"added to pixels in [0, 1], so expected at most 1. {TO_STATE}."
        )
    if scale == 255 and least <= 1:
        raise DataError(
            f"{SCALE_OPTION} 255 is stated, but the largest value of a perturbation in {path} is "
            f"{least:.4g}: it is already on [0, 1]. Leave the scale out, or state 1."
        )
    if scale == 255 and most > 255:
        raise DataError(
            f"The largest value of {path} is {most:.4g}; on the 0-255 scale that was stated, "
            "expected at most 255. Check the file."
        )
    return values / scale


def _check_type(stack: Tensor, path: Path, scale: int) -> None:
    if stack.is_floating_point():
        return
    if scale == 1:
        raise DataError(
            f"{path} holds {stack.dtype}; expected floating-point values for pixels in [0, 1]. "
            f"{TO_STATE}."
        )
    if not stack.dtype.is_signed:
        raise DataError(
            f"{path} holds {stack.dtype}: unsigned values cannot darken a pixel. Save signed or "
            "floating-point ones."
        )
