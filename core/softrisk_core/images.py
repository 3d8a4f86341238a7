"""Encoded images to pixels: the one place where it happens, for training data and for requests alike.

Pillow is imported here and nowhere else in core; the rooms that read images bring it with their extras.
"""

import io
import warnings
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from softrisk_core.errors import ImageError

ImageMode = Literal["L", "RGB"]

FORMATS: Final = ("PNG", "JPEG")
"""Accepted by content; the name and the declared media type of a file are not trusted."""

MAX_PIXELS: Final = 25_000_000
"""Larger images are refused from their header, before anything is decoded."""


def decode_image(data: bytes, *, mode: ImageMode, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Pixels of a PNG or JPEG file.

    Args:
        data: The whole file.
        mode: `L` for one grey channel, `RGB` for three. Transparency is laid over black.
        size: (height, width) to resize to, bilinear; None keeps the size of the file.

    Returns:
        Shape (channels, height, width), values 0 … 255.

    Raises:
        ImageError: If the data is no PNG or JPEG, is truncated or damaged, or would decode to more than
            `MAX_PIXELS` pixels.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 million pixels on; our limit is lower and an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise ImageError(
                        f"the image has {width}×{height} pixels, more than the {MAX_PIXELS:,} that are accepted"
                    )
                return _pixels(image, mode, size)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("the data is not a PNG or JPEG image") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"the image is larger than the {MAX_PIXELS:,} pixels that are accepted") from error
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, MemoryError) as error:
        raise ImageError(f"the image is truncated or damaged: {error}") from error


def _pixels(image: ImageFile.ImageFile, mode: ImageMode, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    image.load()
    # 16-bit grey (mode I;16) would be clipped, not scaled, by Pillow's convert.
    if image.mode.startswith("I"):
        deep = np.asarray(image, dtype=np.int64)
        plain = Image.fromarray((deep // 257).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        plain = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    else:
        plain = image
    plain = plain.convert(mode)
    if size is not None and plain.size != (size[1], size[0]):
        plain = plain.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(plain, dtype=np.uint8)
    return pixels[None] if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))
