"""Encoded images to pixels: the one place where it happens, for training data and for requests alike.

Pillow is imported here and nowhere else in core; the rooms that read images bring it with their extras.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from softrisk_core.errors import ImageError

ImageMode = Literal["L", "RGB"]

FORMATS: Final = ("PNG", "JPEG")
"""Accepted by content; the name and the declared media type of a file are not trusted."""

MAX_PIXELS: Final = 25_000_000
"""Larger images are refused from their header, before anything is decoded."""

MAX_SCANS: Final = 100
"""Most scans of a JPEG. Encoders write about ten; each one in a file made to be slow costs a pass over all pixels."""

# Pillow's own limit is higher, and a warning: silencing it for one call would not be safe between threads.
Image.MAX_IMAGE_PIXELS = None

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes an orientation of EXIF (tag 274; EXIF 2.32, section 4.6.4 A)."""


def image_size(data: bytes) -> tuple[int, int]:
    """(height, width) of a PNG or JPEG file as stored, from its header: nothing is decoded.

    Raises:
        ImageError: As `decode_image`, for what the header tells.
    """
    with _opened(data) as image:
        return image.height, image.width


def decode_image(data: bytes, *, mode: ImageMode, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Pixels of a PNG or JPEG file.

    Args:
        data: The whole file.
        mode: `L` for one grey channel, `RGB` for three. Transparency is laid over black.
        size: (height, width) to resize to, bilinear; None keeps the size of the file.

    Returns:
        Shape (channels, height, width), values 0 … 255, upright as EXIF tells.

    Raises:
        ImageError: If the data is no PNG or JPEG, is truncated or damaged, or would decode to more than
            `MAX_PIXELS` pixels.
    """
    with _opened(data) as image:
        return _pixels(image, mode, size)


@contextmanager
def _opened(data: bytes) -> Iterator[ImageFile.ImageFile]:
    """An image of which only the header has been read; what Pillow raises meanwhile becomes `ImageError`."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"the image has {image.width}×{image.height} pixels, more than the {MAX_PIXELS:,} that are accepted"
                )
            # Inside coded data FF is followed by 00, so that these two bytes are markers.
            if image.format == "JPEG" and data.count(b"\xff\xda") > MAX_SCANS:
                raise ImageError(f"the image has more than {MAX_SCANS} scans")
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("the data is not a PNG or JPEG image") from error
    except Exception as error:  # damaged files make decoders raise anything: OSError, SyntaxError, IndexError, …
        raise ImageError(f"the image is truncated or damaged: {error}") from error


def _pixels(image: ImageFile.ImageFile, mode: ImageMode, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    # No step copies what it need not: at the limit a copy of an RGBA image is 100 MB.
    image.load()
    plain: Image.Image = image
    if image.mode.startswith("I"):
        # 16-bit grey (mode I;16) would be clipped, not scaled, by Pillow's convert.
        deep = np.asarray(image)
        plain = Image.fromarray(np.floor_divide(deep, 257, out=np.empty(deep.shape, np.uint8), casting="unsafe"))
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        plain = Image.new("RGB", rgba.size)
        plain.paste(rgba, mask=rgba)
    if plain.mode != mode:
        plain = plain.convert(mode)
    if (method := _UPRIGHT.get(_orientation(image))) is not None:
        plain = plain.transpose(method)
    if size is not None and plain.size != (size[1], size[0]):
        plain = plain.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(plain, dtype=np.uint8)
    return pixels[None] if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _orientation(image: ImageFile.ImageFile) -> Any:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # whatever damaged metadata provoke: the pixels are good, and viewers show them as they are
        return None
