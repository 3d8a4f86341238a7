"""What can be said of images without asking a network: grain, and likeness."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LONGEST_FINE_WAVE: Final = 4
"""Pixels: half of the frequencies along a side have shorter waves."""


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, to the right plus downwards.

    Args:
        images: Shape (B, C, H, W).

    Returns:
        Shape (B,); differentiable almost everywhere.
    """
    right = images.diff(dim=3).abs().mean(dim=(1, 2, 3))
    down = images.diff(dim=2).abs().mean(dim=(1, 2, 3))
    return right + down


def fine_energy(images: Tensor) -> Tensor:
    """Share of the energy in waves shorter than four pixels, of all that is not the mean colour.

    Args:
        images: Shape (B, C, H, W).

    Returns:
        Shape (B,), in [0, 1]; 0 for a uniform image.
    """
    height, width = images.shape[2:]
    centred = images.double() - images.double().mean(dim=(2, 3), keepdim=True)
    energy = torch.fft.fft2(centred).abs().square().sum(dim=1)
    frequencies = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    fine = energy[:, frequencies > 1 / _LONGEST_FINE_WAVE].sum(dim=1)
    share: Tensor = fine / energy.sum(dim=(1, 2)).clamp(min=1e-12)
    return share


def likeness(images: Tensor) -> NDArray[np.float64]:
    """Mean correlation of the pixels of two images of one group.

    Args:
        images: Shape (groups, S, C, H, W), S ≥ 2.

    Returns:
        Shape (groups,), in [-1, 1].
    """
    groups = []
    for members in images.double().flatten(2).cpu().numpy():
        correlations = np.corrcoef(members)
        groups.append(correlations[np.triu_indices(len(members), 1)].mean())
    return np.array(groups)
