import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from prn_guard.contract import InputSpec
from prn_guard.errors import DataError, InvalidArgumentError
from prn_guard.images import MAX_FILE_BYTES, check_batch, decode_picture, read_picture


@pytest.fixture
def gray_spec():
    return InputSpec(channels=1, height=8, width=8, mean=(0.0,), std=(1.0,), channel_order="gray")


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def encode(pixels, kind="PNG", **options):
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width, height, depth, colour, rows):
    """A PNG file from its parts; `rows` are the filtered scanlines."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_batch_that_fits_is_passed_on_uncopied(spec, pixels):
    batch = pixels[None].copy()
    assert check_batch(batch, spec) is batch


def test_batch_becomes_contiguous(spec, pixels):
    batch = np.stack([pixels] * 4)[::2, :, ::-1]
    checked = check_batch(batch, spec)
    assert checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, batch)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([[1]], "images is a list"),
        (None, "images is a NoneType"),
        (np.full((2, 8, 8, 3), 0.5), r"images \* 255"),
        (np.full((2, 8, 8, 3), 1.0, np.float32), r"images \* 255"),
        (np.full((2, 8, 8, 3), 200.0), r"pixels in 0\.\.255"),
        (np.full((2, 8, 8, 3), 200), r"pixels in 0\.\.255"),
        (np.full((2, 8, 8, 3), -1.7), "undo the normalisation"),
        (np.full((2, 8, 8, 3), np.nan), "undo the normalisation"),
        (np.full((2, 8, 8, 3), 60000, np.uint16), "60000"),
        (np.zeros((2, 8, 8, 3), bool), "decoded pixels"),
        (np.zeros((0, 8, 8, 3), float), "decoded pixels"),
        (np.zeros((2, 8, 8, 3), complex), "decoded pixels"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"transpose\(0, 2, 3, 1\)"),
        (np.zeros((3, 8, 8), np.uint8), r"transpose\(1, 2, 0\)\[None\]"),
        (np.zeros((8, 8, 3), np.uint8), r"images\[None\]"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"takes 3 channel\(s\)"),
        (np.zeros((2, 8, 8, 1), np.uint8), r"takes 3 channel\(s\)"),
        (np.zeros((2, 9, 8, 3), np.uint8), "height 8 and width 8"),
        (np.zeros((8, 8), np.uint8), "height 8 and width 8"),
        (np.zeros((), np.uint8), "height 8 and width 8"),
        (np.zeros((0, 8, 8, 3), np.uint8), "holds no picture"),
    ],
)
def test_batch_that_does_not_fit_is_refused(spec, images, said):
    with pytest.raises(InvalidArgumentError, match=said):
        check_batch(images, spec)


def test_gray_batch_without_channel_axis_is_explained(gray_spec):
    with pytest.raises(InvalidArgumentError, match=r"images\[\.\.\., None\]"):
        check_batch(np.zeros((2, 8, 8), np.uint8), gray_spec)


def test_png_is_read_exactly(spec, pixels, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(pixels))
    found = read_picture(path, spec)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, pixels)


def test_palette_picture_is_read_exactly(spec, pixels):
    image = Image.fromarray(pixels).quantize(16)
    np.testing.assert_array_equal(
        decode_picture(encode(image), spec), np.array(image.convert("RGB"))
    )


def test_jpeg_is_read(spec):
    content = encode(np.full((8, 8, 3), 77, np.uint8), "JPEG", quality=95)
    np.testing.assert_allclose(decode_picture(content, spec), 77, atol=1)  # JPEG's own rounding


def test_gray_is_replicated_for_an_rgb_classifier(spec, pixels):
    gray = pixels[..., 0]
    found = decode_picture(encode(gray), spec)
    np.testing.assert_array_equal(found, np.repeat(gray[..., None], 3, axis=2))


def test_gray_and_bilevel_for_a_gray_classifier(gray_spec, pixels):
    gray = pixels[..., 0]
    np.testing.assert_array_equal(decode_picture(encode(gray), gray_spec), gray[..., None])
    black_white = Image.fromarray(gray > 127)
    found = decode_picture(encode(black_white), gray_spec)
    np.testing.assert_array_equal(found[..., 0], np.where(gray > 127, 255, 0))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_orientation_is_applied(spec, pixels, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(pixels, kind, exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        upright = np.array(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(decode_picture(content, spec), upright)


def test_resize_keeps_what_it_can(spec):
    """A whole multiple of the input, constant over blocks inside, is cropped and averaged."""
    blocks = np.random.default_rng(3).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    middle = blocks[:, 2:10]
    np.testing.assert_array_equal(decode_picture(encode(blocks), spec, resize=True), middle)
    flat = np.full((31, 17, 3), (9, 90, 200), np.uint8)
    np.testing.assert_array_equal(decode_picture(encode(flat), spec, resize=True), flat[:8, :8])


def test_resize_equals_scaling_then_cropping(spec):
    steep = np.random.default_rng(4).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    scaled = Image.fromarray(steep).resize((12, 8), Image.Resampling.BILINEAR)
    cropped = np.array(scaled.crop((2, 0, 10, 8))).astype(int)
    found = decode_picture(encode(steep), spec, resize=True).astype(int)
    # The outer columns differ: cropping first hides their neighbours from the filter.
    assert np.abs(found - cropped)[:, 1:-1].max() <= 1


def test_resize_leaves_a_fitting_picture_alone(spec, pixels):
    np.testing.assert_array_equal(decode_picture(encode(pixels), spec, resize=True), pixels)


def test_extreme_aspect_ratio_is_resized_in_little_memory(spec):
    sliver = Image.new("RGB", (200_000, 1), (1, 2, 3))
    found = decode_picture(encode(sliver), spec, resize=True)
    np.testing.assert_array_equal(found, np.full((8, 8, 3), (1, 2, 3)))


def test_wrong_size_is_refused_with_advice(spec, pixels):
    with pytest.raises(DataError, match=r"8 x 7 pixels.*takes 8 x 8.*--resize"):
        decode_picture(encode(pixels[:7]), spec)


@pytest.mark.parametrize(
    ("mode", "said"),
    [("RGBA", "transparency"), ("LA", "transparency"), ("I;16", "16 bits")],
)
def test_modes_that_lose_something_are_refused(spec, mode, said):
    with pytest.raises(DataError, match=said):
        decode_picture(encode(Image.new(mode, (8, 8))), spec)


def test_keyed_transparency_is_refused(spec, pixels):
    content = encode(Image.fromarray(pixels), transparency=(1, 2, 3))
    with pytest.raises(DataError, match="transparency"):
        decode_picture(content, spec)


def test_cmyk_is_refused(spec):
    with pytest.raises(DataError, match="CMYK"):
        decode_picture(encode(Image.new("CMYK", (8, 8)), "JPEG"), spec)


def test_rgb_with_16_bits_is_refused(spec):
    """Pillow alone would read it as 8-bit RGB."""
    content = png(8, 8, 16, 2, (b"\0" + b"\x12\x34" * 24) * 8)
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "RGB"
    with pytest.raises(DataError, match="16 bits"):
        decode_picture(content, spec)


def test_rgb_for_a_gray_classifier_is_refused(gray_spec, pixels):
    with pytest.raises(DataError, match="3 channels"):
        decode_picture(encode(pixels), gray_spec)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
def test_truncated_file_is_refused(spec, pixels, kind, part):
    content = encode(pixels, kind)
    with pytest.raises(DataError, match="cannot be decoded"):
        decode_picture(content[: int(len(content) * part)], spec)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP"])
def test_other_formats_are_refused(spec, pixels, kind):
    with pytest.raises(DataError, match="JPEG or PNG") as caught:
        decode_picture(encode(pixels, kind), spec)
    assert "0x" not in str(caught.value)  # a server's clients are told no addresses in memory


# Pillow stays silent, warns, and raises at these three.
@pytest.mark.parametrize(("width", "height"), [(10_000, 6_000), (10_000, 10_000), (60_000, 60_000)])
def test_decompression_bomb_is_refused_by_its_header(spec, width, height):
    with pytest.raises(DataError, match=r"pixels.*50000000"):
        decode_picture(png(width, height, 8, 2, b""), spec, resize=True)


# Pillow warns of damaged EXIF and goes on; whatever still decodes is a picture.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_never_escape_as_another_error(spec, pixels):
    rng = np.random.default_rng(5)
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    sources = [encode(pixels), encode(pixels, "JPEG", exif=exif)]
    refused = 0
    for turn in range(400):
        content = bytearray(sources[turn % 2])
        for place in rng.integers(0, len(content), 3):
            content[place] = rng.integers(0, 256)
        try:
            decode_picture(bytes(content), spec)
        except DataError:
            refused += 1
    assert refused > 100


def test_unreadable_files_are_refused(spec, tmp_path):
    with pytest.raises(DataError, match="is missing"):
        read_picture(tmp_path / "none.png", spec)
    with pytest.raises(DataError, match="no plain file"):
        read_picture(tmp_path, spec)
    with pytest.raises(DataError):
        read_picture(tmp_path / ("x" * 5000), spec)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(DataError, match=r"text\.png cannot be decoded"):
        read_picture(tmp_path / "text.png", spec)
    with (tmp_path / "huge.png").open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(DataError, match="larger than 64 MiB"):
        read_picture(tmp_path / "huge.png", spec)
