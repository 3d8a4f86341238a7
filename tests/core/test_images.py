"""Decoding: exact pixels for good files, ImageError for everything else."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from softrisk_core.errors import ImageError
from softrisk_core.images import MAX_PIXELS, decode_image, image_size


def encode(pixels: NDArray[np.uint8] | NDArray[np.uint16], fmt: str = "PNG", mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(buffer, fmt)
    return buffer.getvalue()


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOUR = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)


def test_grey_png_keeps_its_pixels() -> None:
    assert np.array_equal(decode_image(encode(GREY), mode="L"), GREY[None])


def test_colour_png_keeps_its_pixels_channels_first() -> None:
    assert np.array_equal(decode_image(encode(COLOUR), mode="RGB"), COLOUR.transpose(2, 0, 1))


def test_jpeg_is_accepted() -> None:
    assert decode_image(encode(COLOUR, "JPEG"), mode="RGB").shape == (3, 8, 6)


def test_grey_becomes_three_channels_and_colour_one() -> None:
    assert np.array_equal(decode_image(encode(GREY), mode="RGB"), np.repeat(GREY[None], 3, axis=0))
    assert decode_image(encode(COLOUR), mode="L").shape == (1, 8, 6)


def test_sixteen_bit_grey_is_scaled() -> None:
    deep = (GREY.astype(np.uint16)) * 257
    assert np.array_equal(decode_image(encode(deep), mode="L"), GREY[None])


def test_palette_images_are_resolved() -> None:
    assert np.array_equal(decode_image(encode(GREY, mode="P"), mode="L"), GREY[None])


def test_transparency_lies_over_black() -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., :3] = 200
    rgba[0, 0, 3] = 255
    assert decode_image(encode(rgba), mode="L")[0].tolist() == [[200, 0], [0, 0]]


def test_transparency_is_composed_as_by_pillow_for_every_colour_and_opacity() -> None:
    colour, opacity = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    rgba = np.stack([colour, colour, colour, opacity], axis=-1)
    expected = Image.alpha_composite(Image.new("RGBA", (256, 256), (0, 0, 0, 255)), Image.fromarray(rgba))
    assert np.array_equal(decode_image(encode(rgba), mode="RGB").transpose(1, 2, 0), np.asarray(expected)[..., :3])


def test_transparency_of_grey_and_palette_images_lies_over_black() -> None:
    grey = np.stack([np.full((2, 2), 200, np.uint8), np.array([[255, 0], [255, 255]], np.uint8)], axis=-1)
    palette = Image.fromarray(np.array([[0, 1], [0, 0]], np.uint8)).convert("P")
    palette.putpalette([200] * 6)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=1)
    for data in (encode(grey), buffer.getvalue()):
        assert decode_image(data, mode="L")[0].tolist() == [[200, 0], [200, 200]]


@pytest.mark.parametrize("fmt", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(9))
def test_pictures_are_turned_upright(fmt: str, orientation: int) -> None:
    stored = Image.fromarray(COLOUR)
    exif = stored.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, fmt, exif=exif)
    with Image.open(buffer) as image:
        expected = np.asarray(ImageOps.exif_transpose(image)).transpose(2, 0, 1)
    assert np.array_equal(decode_image(buffer.getvalue(), mode="RGB"), expected)
    assert image_size(buffer.getvalue()) == (8, 6)


@given(st.binary(max_size=100))
def test_damaged_metadata_do_not_spoil_a_picture(metadata: bytes) -> None:
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0" + metadata)
    assert decode_image(buffer.getvalue(), mode="L", size=(8, 8)).shape == (1, 8, 8)


def test_the_size_is_read_from_the_header_alone() -> None:
    assert image_size(png_of_size(30, 20)) == (20, 30)
    with pytest.raises(ImageError, match="pixels"):
        image_size(png_of_size(50_000, 50_000))
    with pytest.raises(ImageError, match="not a PNG or JPEG"):
        image_size(b"hello")


def test_resizing_gives_the_asked_size() -> None:
    assert decode_image(encode(COLOUR), mode="RGB", size=(4, 5)).shape == (3, 4, 5)


def png_of_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "not an image")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a PNG or JPEG"),
        (b"hello", "not a PNG or JPEG"),
        (zip_file(), "not a PNG or JPEG"),
        (encode(GREY, "BMP"), "not a PNG or JPEG"),
        (encode(GREY)[:-30], "truncated or damaged"),
        (encode(COLOUR, "JPEG")[:-40], "truncated or damaged"),
        (png_of_size(50_000, 50_000), "pixels"),
        (png_of_size(9_000, 9_000), f"{MAX_PIXELS:,}"),
        (png_of_size(100, 100), "truncated or damaged"),
    ],
)
def test_what_is_not_a_good_image_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_image(data, mode="L")


@given(st.integers(0, 200), st.integers(0, 255), st.sampled_from(["PNG", "JPEG"]))
def test_a_changed_byte_never_raises_anything_else(position: int, value: int, fmt: str) -> None:
    data = bytearray(encode(GREY, fmt))
    data[position % len(data)] = value
    try:
        pixels = decode_image(bytes(data), mode="L", size=(8, 8))
    except ImageError:
        return
    assert pixels.shape == (1, 8, 8)


def test_whatever_a_decoder_raises_is_an_image_error() -> None:
    """Pillow raises IndexError for an empty colour profile behind the pixels."""
    data = encode(GREY)
    profile = struct.pack(">I", 0) + b"iCCP" + struct.pack(">I", zlib.crc32(b"iCCP"))
    with pytest.raises(ImageError, match="truncated or damaged"):
        decode_image(data[:-12] + profile + data[-12:], mode="L")


def test_a_jpeg_made_of_countless_scans_is_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    assert decode_image(data, mode="RGB").shape == (3, 8, 6)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match="more than 100 scans"):
        decode_image(data[:last] + data[last:-2] * 101 + data[-2:], mode="RGB")
