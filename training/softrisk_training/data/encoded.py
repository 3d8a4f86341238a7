"""Many encoded images to one array."""

import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softrisk_core.errors import ImageError
from softrisk_core.images import ImageMode, decode_image
from softrisk_training.errors import DataError


def decode_images(files: Iterable[tuple[str, bytes]]) -> NDArray[np.uint8]:
    """Decode PNG or JPEG files of one size; all are grey if the first is, and colour if not.

    Args:
        files: Pairs of a name, for messages, and the content.

    Returns:
        Shape (N, channels, height, width).

    Raises:
        DataError: If a file is damaged or has another size than the first; the message names it.
    """
    images: list[NDArray[np.uint8]] = []
    mode: ImageMode | None = None
    for name, content in files:
        mode = mode or _mode(content)
        try:
            image = decode_image(content, mode=mode)
        except ImageError as error:
            raise DataError(f"{name}: {error}") from error
        if images and image.shape != images[0].shape:
            raise DataError(
                f"{name} is {_size(image)} pixels, but the images before it are {_size(images[0])};"
                " resize them all to one size"
            )
        images.append(image)
    return np.stack(images)


def _mode(content: bytes) -> ImageMode:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return "L" if image.mode.startswith(("1", "L", "I")) else "RGB"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        # Not an image that can be opened: decode_image says precisely why.
        return "RGB"


def _size(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[1]}×{image.shape[2]}"
