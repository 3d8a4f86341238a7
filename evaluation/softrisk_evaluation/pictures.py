"""Arrays as pictures that a page can carry within itself."""

import base64
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_LARGEST: Final = 256
"""Pixels on a side: a page shows no more, and a dozen pictures must not weigh megabytes."""


def png_uri(content: bytes) -> str:
    """A PNG file as a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def picture(image: NDArray[np.float32]) -> str:
    """An input as a `data:` address.

    Args:
        image: Shape (C, H, W), in [0, 1]. Three channels are red, green and blue; of more or fewer the mean is shown.
    """
    channels = image if len(image) == 3 else image.mean(axis=0, keepdims=True)
    pixels = np.round(channels.clip(0, 1) * 255).astype(np.uint8)
    drawn = Image.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0])
    drawn.thumbnail((_LARGEST, _LARGEST))
    file = BytesIO()
    drawn.save(file, "PNG", optimize=True)
    return png_uri(file.getvalue())


def amplification(epsilon: float) -> float:
    """By how much a change of ±ε is to be multiplied to go from black to white."""
    return 0.5 / epsilon


def difference(clean: NDArray[np.float32], attacked: NDArray[np.float32], factor: float) -> str:
    """What an attack changed, as a `data:` address: mid-grey is no change.

    Args:
        clean: Shape (C, H, W), in [0, 1].
        attacked: The same.
        factor: From `amplification`.
    """
    return picture((0.5 + np.float32(factor) * (attacked - clean)).astype(np.float32))
