"""Label-preserving changes of training images.

Which changes preserve the label only the user knows: a mirrored cat is a cat, a mirrored 3 is no digit.
"""

from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Augmentation = Literal["none", "crop", "crop-flip"]

CROP_SHARE: Final = 8
"""Crops move by up to 1/8 of the side: 4 pixels of 32, as is usual for CIFAR."""


def augment(inputs: Tensor, kind: Augmentation, generator: np.random.Generator) -> Tensor:
    """Shift each image by its own random offset, and mirror every second one.

    Args:
        inputs: Shape (B, C, H, W).
        kind: `none`, `crop` (shifts, the border filled by reflection) or `crop-flip` (and left-right mirroring).
        generator: Draws the changes.

    Returns:
        Shape (B, C, H, W).
    """
    if kind == "none":
        return inputs
    batch, _, height, width = inputs.shape
    pad_y, pad_x = height // CROP_SHARE, width // CROP_SHARE
    padded = F.pad(inputs, (pad_x, pad_x, pad_y, pad_y), mode="reflect")
    rows = generator.integers(0, 2 * pad_y + 1, (batch, 1)) + np.arange(height)
    columns = generator.integers(0, 2 * pad_x + 1, (batch, 1)) + np.arange(width)
    if kind == "crop-flip":
        mirrored = generator.random((batch, 1)) < 0.5
        columns = np.where(mirrored, columns[:, ::-1], columns)
    images = torch.arange(batch, device=inputs.device)[:, None, None]
    at_rows = torch.from_numpy(rows).to(inputs.device)[:, :, None]
    at_columns = torch.from_numpy(columns).to(inputs.device)[:, None, :]
    # Three index tensors around a slice put the channels last.
    return padded[images, :, at_rows, at_columns].permute(0, 3, 1, 2)


def add_noise(inputs: Tensor, std: float, generator: np.random.Generator) -> Tensor:
    """Add Gaussian noise to pixels, and clip them to [0, 1].

    Args:
        inputs: Shape (B, C, H, W), in [0, 1].
        std: Standard deviation, in units of [0, 1] pixels; 0 draws nothing.
        generator: Draws the noise.
    """
    if std == 0:
        return inputs
    noise = torch.from_numpy(generator.standard_normal(inputs.shape, dtype=np.float32))
    return (inputs + std * noise.to(inputs.device)).clamp(0, 1)
