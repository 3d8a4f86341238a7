"""Which pixels hold the label against the runner-up: by gradient, or without one by covering patches."""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Map = NDArray[np.float64]
"""Shape (H, W). Positive: for the label; negative: for the runner-up."""

PATCHES: Final = 7
"""A patch is the side of the image over this …"""

_MOVES: Final = 28
"""… and moves by the side over this, so that a large image costs no more passes than a small one."""

_BATCH: Final = 64


def gradient_map(model: nn.Module, image: NDArray[np.float32], label: int, runner_up: int) -> Map:
    """Gradient of z_label − z_runner-up, summed over channels: a brighter pixel helps the label where it is positive.

    Args:
        model: Maps (B, C, H, W) to logits.
        image: Shape (C, H, W).
        label: Most likely class.
        runner_up: Second most likely class.
    """
    pixels = torch.from_numpy(image[None]).requires_grad_()
    logits = model(pixels)[0]
    (gradient,) = torch.autograd.grad(logits[label] - logits[runner_up], pixels)
    summed: Map = gradient[0].sum(dim=0).double().numpy()
    return summed


def occlusion_map(
    logits: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    image: NDArray[np.float32],
    label: int,
    runner_up: int,
    advance: Callable[[int], None] = lambda patches: None,
) -> Map:
    """By how much z_label − z_runner-up falls where a patch is covered, averaged over the patches at each pixel.

    After Zeiler and Fergus (ECCV 2014). A patch gets the median of each channel: what most of the image is like.

    Args:
        logits: Of inputs (B, C, H, W), shape (B, classes).
        image: Shape (C, H, W).
        label: Most likely class.
        runner_up: Second most likely class.
        advance: Called after each batch with the number of its patches.
    """

    def gap(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        found = logits(inputs).astype(np.float64)
        return found[:, label] - found[:, runner_up]

    cover = np.median(image, axis=(1, 2), keepdims=True)
    total, times = np.zeros(image.shape[1:]), np.zeros(image.shape[1:])
    whole = gap(image[None])[0]
    places = list(patches(*image.shape[1:]))
    for start in range(0, len(places), _BATCH):
        batch = places[start : start + _BATCH]
        covered = np.repeat(image[None], len(batch), axis=0)
        for each, (rows, columns) in zip(covered, batch, strict=True):
            each[:, rows, columns] = cover
        for fall, (rows, columns) in zip(whole - gap(covered), batch, strict=True):
            total[rows, columns] += fall
            times[rows, columns] += 1
        advance(len(batch))
    return total / times


def patches(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Where patches lie: they overlap, and leave no pixel out."""
    size, move = (max(1, min(height, width) // parts) for parts in (PATCHES, _MOVES))
    for top in _starts(height, size, move):
        for left in _starts(width, size, move):
            yield slice(top, top + size), slice(left, left + size)


def _starts(length: int, size: int, move: int) -> list[int]:
    last = length - size
    return [*range(0, last, move), last]


def coloured(found: Map) -> NDArray[np.float32]:
    """A map as a picture: red for the label, blue for the runner-up, white for neither, shape (3, H, W) in [0, 1]."""
    largest = np.abs(found).max()
    share = found / largest if largest > 0 else found
    red, blue = 1 - np.maximum(-share, 0), 1 - np.maximum(share, 0)
    return np.stack([red, np.minimum(red, blue), blue]).astype(np.float32)
