"""Networks from the plane of one modality to its features: a plain one, and one whose Lipschitz constant is small.

An encoder is a function (shape of the plane, width, features) -> sequence of layers, each of which
`softrisk_training.multimodal.lipschitz` can bound.
"""

from collections.abc import Callable
from typing import Final, Literal

import torch
from torch import Tensor, nn

from softrisk_training.errors import TrainingError
from softrisk_training.models import small_cnn

Plane = tuple[int, int, int]
"""(channels, height, width)."""

EncoderName = Literal["lipschitz", "small-cnn"]


class Normalise(nn.Module):
    """Planes to zero mean and unit variance, by one number each.

    Args:
        mean: Of the training planes.
        std: Of the training planes, > 0.
    """

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean = mean
        self.std = std

    def forward(self, plane: Tensor) -> Tensor:
        """Same shape."""
        return (plane - self.mean) / self.std


class MaxMin(nn.Module):
    """Of two channels each the larger and the smaller: GroupSort of two (Anil et al., ICML 2019).

    A permutation of its inputs, so 1-Lipschitz, and, unlike ReLU, without loss of gradient norm.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Same shape, (B, channels, …) with an even number of channels."""
        first, second = features.chunk(2, dim=1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], dim=1)


def lipschitz_cnn(plane: Plane, width: int, features: int) -> nn.Sequential:
    """Three 3×3 convolutions and a linear layer between `MaxMin`; halving is a rearrangement, which loses nothing.

    Training keeps every layer's norm at 1 or below (`softrisk_training.multimodal.constraints`).
    """
    channels, height, columns = plane
    if height % 4 or columns % 4 or width % 2:
        raise TrainingError(
            f"the encoder lipschitz takes planes whose sides are multiples of 4, not {height}×{columns}, and an even "
            f"width, not {width}"
        )
    return nn.Sequential(
        nn.PixelUnshuffle(2),
        nn.Conv2d(4 * channels, width, 3, padding=1),
        MaxMin(),
        nn.Conv2d(width, width, 3, padding=1),
        MaxMin(),
        nn.PixelUnshuffle(2),
        nn.Conv2d(4 * width, 2 * width, 3, padding=1),
        MaxMin(),
        nn.Flatten(),
        nn.Linear(2 * width * (height // 4) * (columns // 4), features),
    )


def _plain_cnn(plane: Plane, width: int, features: int) -> nn.Sequential:
    network = small_cnn(plane, features, width)
    assert isinstance(network, nn.Sequential)
    return network


ENCODERS: Final[dict[EncoderName, Callable[[Plane, int, int], nn.Sequential]]] = {
    "lipschitz": lipschitz_cnn,
    "small-cnn": _plain_cnn,
}
"""Every encoder, by its name."""

WIDTHS: Final[dict[EncoderName, int]] = {"lipschitz": 8, "small-cnn": 4}
"""Filters of the first layer, unless the user says otherwise: about the same work for both."""


def build_encoder(name: EncoderName, plane: Plane, *, width: int, features: int, mean: float, std: float) -> nn.Module:
    """A freshly initialised encoder with its normalisation.

    Raises:
        TrainingError: If there is none of that name, or it does not take such planes.
    """
    if name not in ENCODERS:
        raise TrainingError(f"unknown encoder {name!r}: choose one of {', '.join(ENCODERS)}")
    return nn.Sequential(Normalise(mean, std), *ENCODERS[name](plane, width, features))
