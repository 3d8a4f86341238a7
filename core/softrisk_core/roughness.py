"""Roughness: how noisy an image is, by what a Laplacian leaves of it.

An attack that moves every pixel by a little lifts the noise floor, differently in each colour, while a photograph is as
smooth in its colours as in its brightness. The filter is Immerkær's (Computer Vision and Image Understanding, 1996),
which does not answer to edges of constant slope. Of its response the mean says how much there is, the mean logarithm
how much where there is least, and the root mean square how much where there is most.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

LAPLACIAN: Final = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]]) / 6
"""Of white noise it keeps the standard deviation."""

FLOOR: Final = 0.5 / 255
"""Added before the logarithm, half a step of 8 bits."""

TINY: Final = 1e-4
"""Added before other logarithms: far above what float32 leaves of a flat image, far below what a natural one has."""

SMALLEST: Final = 3
"""Pixels that an image must have in both directions."""


def filters(channels: int) -> tuple[NDArray[np.float64], ...]:
    """The filters of each layer, of which all responses are taken together.

    Args:
        channels: C of the images.

    Returns:
        For the channels shape (C, C, 3, 3), and where there are several for the differences of neighbouring ones
        (C − 1, C, 3, 3).
    """
    single = np.eye(channels)
    layers = [single] if channels == 1 else [single, single[:-1] - single[1:]]
    return tuple(layer[:, :, None, None] * LAPLACIAN for layer in layers)


def roughness_names(channels: int) -> tuple[str, ...]:
    """Names of the values for images of C channels, in their order."""
    layers = ("pixel",) if channels == 1 else ("pixel", "colour")
    between = () if channels == 1 else ("colour-to-pixel",)
    return (*(f"{layer}-{value}" for layer in layers for value in ("mean", "log", "floor", "peak")), *between)


def roughness(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Roughness of images.

    For each layer the logarithm of the mean, the mean of logarithms, its excess over the former (the floor), and that
    of the former over the root mean square (the peaks); then how much more there is of colour than of single channels,
    by the mean logarithms.

    Args:
        images: Shape (B, C, H, W) with H, W ≥ 3, in [0, 1].

    Returns:
        Shape (B, R), R = 4 for one channel and 9 for several.
    """
    channels = _laplacian(images.astype(np.float64))
    # The filter is linear: the responses of a difference are the difference of responses.
    layers = [channels] if channels.shape[1] == 1 else [channels, channels[:, :-1] - channels[:, 1:]]
    values: list[NDArray[np.float64]] = []
    logs = []
    for layer in layers:
        response = np.abs(layer).reshape(len(images), -1)
        mean = np.log(response.mean(axis=1) + TINY)
        log = np.log(response + FLOOR).mean(axis=1)
        root = np.log(np.sqrt(np.square(response).mean(axis=1)) + TINY)
        values += [mean, log, log - mean, mean - root]
        logs.append(log)
    if len(logs) == 2:
        values.append(logs[1] - logs[0])
    return np.stack(values, axis=1)


def _laplacian(images: NDArray[np.float64]) -> NDArray[np.float64]:
    # Separable: the outer product of (1, −2, 1) with itself.
    rows = images[:, :, :-2] - 2 * images[:, :, 1:-1] + images[:, :, 2:]
    both: NDArray[np.float64] = rows[..., :-2] - 2 * rows[..., 1:-1] + rows[..., 2:]
    return both / 6
