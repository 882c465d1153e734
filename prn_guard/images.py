"""Pictures for the guard: check a batch in memory, or read one JPEG or PNG file.

Pixels are taken as stored; colour profiles and PNG gamma are not applied, as no training pipeline
known to us applies them.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from prn_guard.contract import InputSpec
from prn_guard.errors import DataError, InvalidArgumentError, TooManyPixelsError

FORMATS = ("JPEG", "PNG")
MAX_FILE_BYTES = 64 * 1024 * 1024
# Below Pillow's own limit (89 megapixels, where it only warns), so that ours is the one that acts.
MAX_PIXELS = 50_000_000

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH = 24  # place in the file: signature, then IHDR's length, name, width and height
_ORIENTATION_TAG = 0x0112
# `ImageOps.exif_transpose` does the same but rewrites the other tags and fails on damaged ones.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
_TOO_MANY_PIXELS = (Image.DecompressionBombError, Image.DecompressionBombWarning)

Picture = npt.NDArray[np.uint8]


def check_batch(images: object, spec: InputSpec) -> Picture:
    """Check that `images` is a batch the graph can take.

    Args:
        images: `(B, H, W, C)` uint8 in 0..255, RGB or gray, B at least 1, sizes as in `spec`.
        spec: what the guarded classifier takes.

    Returns:
        The same pixels, C-contiguous; not copied when they already are.

    Raises:
        InvalidArgumentError: no NumPy array, another dtype, layout or size, or no picture in it.
    """
    channels, height, width = spec.shape
    expected = f"expected a numpy array (B, {height}, {width}, {channels}), uint8 in 0..255"
    if not isinstance(images, np.ndarray):
        raise InvalidArgumentError(
            f"images is a {type(images).__name__}; {expected}. Convert it, e.g. with numpy.stack."
        )
    if images.dtype != np.uint8:
        raise InvalidArgumentError(f"images is {images.dtype}; {expected}. {_dtype_hint(images)}")
    if images.ndim != 4 or images.shape[1:] != (height, width, channels):
        hint = _shape_hint(images.shape, spec)
        raise InvalidArgumentError(f"images has shape {images.shape}; {expected}. {hint}")
    if len(images) == 0:
        raise InvalidArgumentError(f"images holds no picture; {expected}, B at least 1.")
    return np.ascontiguousarray(images)


def read_picture(
    path: Path, spec: InputSpec, *, resize: bool = False, shorter: int | None = None
) -> Picture:
    """Read a JPEG or PNG file as the guarded classifier takes it.

    Args:
        path: the file, at most 64 MiB and 50 million pixels.
        spec: what the guarded classifier takes.
        resize: as in `decode_picture`.
        shorter: likewise.

    Returns:
        `(H, W, C)` uint8 in 0..255, C-contiguous.

    Raises:
        DataError: the file cannot be read, or holds what `decode_picture` refuses.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path} is missing or no plain file. Name a JPEG or PNG picture.")
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. Check its permissions.") from error
    if len(content) > MAX_FILE_BYTES:
        raise DataError(
            f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB, the most that is read for one "
            "picture. Scale it down first."
        )
    return decode_picture(content, spec, resize=resize, shorter=shorter, name=str(path))


def decode_picture(
    content: bytes,
    spec: InputSpec,
    *,
    resize: bool = False,
    shorter: int | None = None,
    max_pixels: int = MAX_PIXELS,
    name: str = "the picture",
) -> Picture:
    """Decode the bytes of a JPEG or PNG file; the EXIF orientation is applied.

    Args:
        content: the whole file.
        spec: what the guarded classifier takes. A gray picture is replicated for an RGB one.
        resize: scale the picture, with a smoothing bilinear filter, and crop the centre, instead
            of refusing another size.
        shorter: what `resize` brings the shorter side to, in pixels; at least the input's. The
            manifest's `resize` is what the guard was trained with. None takes the input's own.
        max_pixels: most that are decoded, at most `MAX_PIXELS`.
        name: what messages call the picture.

    Returns:
        `(H, W, C)` uint8 in 0..255, C-contiguous.

    Raises:
        TooManyPixelsError: by what the file's header says.
        DataError: no JPEG or PNG, damaged, 16 bits per channel, transparency,
            other channels than `spec` has, or another size while `resize` is off.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _refuse_unfit(image, content, min(max_pixels, MAX_PIXELS), name)
            image.load()
            turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
            upright = image if turn is None else image.transpose(turn)
    except _TOO_MANY_PIXELS as error:
        raise TooManyPixelsError(
            f"{name} has too many pixels: {error} {_pixel_hint(max_pixels)}"
        ) from error
    except UnidentifiedImageError as error:
        # Its own text names the stream by an address in memory, which is nobody else's business.
        raise DataError(
            f"{name} cannot be decoded: it is no {' or '.join(FORMATS)}, or its beginning is "
            "damaged. Save the picture as one of these."
        ) from error
    except _BROKEN as error:
        raise DataError(
            f"{name} cannot be decoded as {' or '.join(FORMATS)}: {error}. It is damaged or "
            "another kind of file; write it anew."
        ) from error
    fitting = _with_channels(upright, spec, name)
    return np.array(_with_size(fitting, spec, resize=resize, shorter=shorter, name=name)).reshape(
        spec.height, spec.width, spec.channels
    )


def _pixel_hint(limit: int) -> str:
    return f"At most {limit} are decoded for one picture; scale it down first."


def _dtype_hint(images: npt.NDArray[np.generic]) -> str:
    if images.size and np.issubdtype(images.dtype, np.number) and np.isrealobj(images):
        low, high = float(images.min()), float(images.max())
        if np.issubdtype(images.dtype, np.floating) and low >= 0 and high <= 1:
            return (
                "These look like pixels in [0, 1]: pass (images * 255).round().astype(numpy.uint8)."
            )
        if low >= 0 and high <= 255:
            return "These look like pixels in 0..255: pass images.round().astype(numpy.uint8)."
        return f"Values run from {low:g} to {high:g}: undo the normalisation, the graph applies it."
    return "Pass the decoded pixels themselves."


def _shape_hint(shape: tuple[int, ...], spec: InputSpec) -> str:
    channels, height, width = spec.shape
    if shape == (height, width, channels):
        return "This is one picture without a batch axis: pass images[None]."
    if shape[1:] == spec.shape:
        return "Channels come last: pass images.transpose(0, 2, 3, 1)."
    if shape == spec.shape:
        return "This is one picture, channels first: pass images.transpose(1, 2, 0)[None]."
    if channels == 1 and shape[1:] == (height, width):
        return "The channel axis is missing: pass images[..., None]."
    if len(shape) == 4 and shape[1:3] == (height, width):
        return f"The classifier takes {channels} channel(s) per pixel: convert the pictures."
    return f"Resize or crop every picture to height {height} and width {width}."


def _refuse_unfit(image: Image.Image, content: bytes, limit: int, name: str) -> None:
    """Refuse, by the header alone, what must not or cannot be decoded faithfully."""
    pixels = image.width * image.height
    if pixels > limit:
        raise TooManyPixelsError(
            f"{name} has {image.width} x {image.height} pixels. {_pixel_hint(limit)}"
        )
    # Pillow reads 16-bit RGB as mode "RGB" and drops the low bytes without a word.
    deep_png = content.startswith(_PNG_SIGNATURE) and content[_PNG_BIT_DEPTH] > 8
    if deep_png or image.mode.startswith(("I", "F")):
        raise DataError(f"{name} has 16 bits per channel; expected 8. Save it with 8 bits.")


def _with_channels(image: Image.Image, spec: InputSpec, name: str) -> Image.Image:
    """Bring the mode to "L" or "RGB", by conversions that lose nothing."""
    if image.has_transparency_data:
        raise DataError(
            f"{name} has transparency (mode {image.mode}), and what lies behind it is not known. "
            "Flatten it onto a background first."
        )
    if image.mode == "P":
        image = image.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    if image.mode not in {"L", "RGB"}:
        raise DataError(
            f"{name} has the colour mode {image.mode}; expected RGB or gray. Convert it first."
        )
    if spec.channels == 1 and image.mode == "RGB":
        raise DataError(
            f"{name} has 3 channels; the classifier takes gray ones. Convert it to gray the way "
            "the classifier's training pictures were."
        )
    return image if spec.channels == 1 else image.convert("RGB")


def _with_size(
    image: Image.Image, spec: InputSpec, *, resize: bool, shorter: int | None, name: str
) -> Image.Image:
    if image.size == (spec.width, spec.height):
        return image
    if not resize:
        raise DataError(
            f"{name} is {image.width} x {image.height} pixels (width x height); the classifier "
            f"takes {spec.width} x {spec.height}. Pass --resize (in Python: resize=True) to scale "
            "the shorter side and crop the centre."
        )
    # Cropping before scaling gives the same picture and bounds memory for extreme aspect ratios.
    if shorter is None:
        scale = min(image.width / spec.width, image.height / spec.height)
    else:
        scale = min(image.width, image.height) / max(shorter, spec.width, spec.height)
    half_width, half_height = spec.width * scale / 2, spec.height * scale / 2
    middle_x, middle_y = image.width / 2, image.height / 2
    box = (
        max(middle_x - half_width, 0.0),
        max(middle_y - half_height, 0.0),
        min(middle_x + half_width, float(image.width)),
        min(middle_y + half_height, float(image.height)),
    )
    return image.resize((spec.width, spec.height), Image.Resampling.BILINEAR, box=box)
