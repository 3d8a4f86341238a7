"""Rotation, scaling and shifts of images, differentiable in the pixels.

What a network answers only where every pixel stands exactly so is not what it has learnt of a class. An image that has
to keep its score while it is turned and scaled cannot rest on that (Chen Li et al., arXiv 2106.09982).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


class Views(NamedTuple):
    """How each of V images is seen.

    Attributes:
        angles: Degrees, positive is counter-clockwise, shape (V,).
        factors: By which the content is enlarged about the centre, > 0, shape (V,).
        shifts: To the right and downwards, in pixels, shape (V, 2).
    """

    angles: NDArray[np.float64]
    factors: NDArray[np.float64]
    shifts: NDArray[np.float64]

    def repeated(self, times: int) -> "Views":
        """The same views again and again, shape (times · V, …)."""
        return Views(*(np.concatenate([each] * times) for each in self))


@dataclass(frozen=True)
class Transformations:
    """From where images are looked at.

    Attributes:
        rotation: Angles are drawn uniformly from ± so many degrees.
        scaling: Factors are drawn between 1/(1 + scaling) and 1 + scaling, uniformly in their logarithm.
        jitter: Shifts are drawn uniformly from ± so many pixels in both directions.
    """

    rotation: float = 0.0
    scaling: float = 0.0
    jitter: float = 0.0

    def draw(self, generators: list[np.random.Generator]) -> Views:
        """One view from each generator. What is not varied is drawn all the same, so that the rest is not changed."""
        drawn = np.stack([generator.uniform(-1, 1, 4) for generator in generators])
        return Views(
            angles=self.rotation * drawn[:, 0],
            factors=np.exp(np.log1p(self.scaling) * drawn[:, 1]),
            shifts=self.jitter * drawn[:, 2:],
        )


def transform(images: Tensor, views: Views) -> Tensor:
    """Images as they are seen: bilinear, and beyond the border the nearest pixel of it.

    Args:
        images: Shape (V, C, H, W).
        views: One for each image.

    Returns:
        The same shape; differentiable in the images.
    """
    height, width = images.shape[2:]
    angles = np.deg2rad(views.angles)
    cosine, sine = np.cos(angles) / views.factors, np.sin(angles) / views.factors
    # Where a pixel of the result is taken from, in pixels from the centre, y downwards: the inverse of what is seen.
    back = np.stack([np.stack([cosine, -sine], axis=1), np.stack([sine, cosine], axis=1)], axis=1)
    origin = -np.einsum("vij,vj->vi", back, views.shifts)
    # affine_grid counts from -1 to 1 along each side.
    half = np.array([width / 2, height / 2])
    matrices = np.concatenate([back * half / half[:, None], (origin / half)[:, :, None]], axis=2)
    grid = F.affine_grid(
        torch.as_tensor(matrices, dtype=images.dtype, device=images.device), list(images.shape), align_corners=False
    )
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
