"""Architectures, by name, and the wrapper that lets all of them take pixels in [0, 1].

An architecture is a function (input shape, number of classes, width) -> module from normalised images to logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

import torch
from torch import Tensor, nn

from softrisk_training.errors import TrainingError

InputShape = tuple[int, int, int]
Optimizer = Literal["adamw", "sgd"]


class Classifier(nn.Module):
    """A network with its normalisation inside: pixels in [0, 1] to logits.

    Attack, export and service thereby all see the same function of the same pixels.

    Args:
        network: From normalised images to logits.
        mean: Of each channel, in [0, 1].
        std: Of each channel, > 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, shape (B, classes), of inputs of shape (B, C, H, W) in [0, 1]."""
        return cast(Tensor, self.network((inputs - self.mean) / self.std))


def small_cnn(input_shape: InputShape, classes: int, width: int) -> nn.Module:
    """Two 3×3 convolutions and a halving, two or three times, then two linear layers: for 8×8 to 64×64 pixels.

    The first stage has `width` filters, each further one twice as many. There is no batch normalisation: in
    trials on MNIST it made the model much easier to attack at the same accuracy (docs/decisions.md).
    """
    channels, rows, columns = input_shape
    if not 8 <= min(rows, columns) <= max(rows, columns) <= 64:
        raise TrainingError(f"small-cnn takes images of 8×8 to 64×64 pixels, not {rows}×{columns}; resize them")
    layers: list[nn.Module] = []
    # A third stage where two would leave the linear layer most of the parameters.
    for _ in range(2 if max(rows, columns) <= 32 else 3):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels, width, rows, columns = width, 2 * width, rows // 2, columns // 2
    hidden = 128
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(channels * rows * columns, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


def resnet(input_shape: InputShape, classes: int, width: int) -> nn.Module:
    """ResNet-9: eight convolutions, two of their pairs residual, and a linear layer; made for 32×32 pixels.

    The shape is that of the DAWNBench entries for CIFAR-10 (Page, "How to train your ResNet", 2018), with `width`
    filters in the first layer: 32 give 1.6 million parameters. The logits are scaled by 1/8, as there.
    """
    channels, rows, columns = input_shape
    if not 16 <= min(rows, columns) <= max(rows, columns) <= 64:
        raise TrainingError(f"resnet takes images of 16×16 to 64×64 pixels, not {rows}×{columns}; resize them")
    return nn.Sequential(
        _convolution(channels, width),
        _convolution(width, 2 * width),
        nn.MaxPool2d(2),
        _Residual(2 * width),
        _convolution(2 * width, 4 * width),
        nn.MaxPool2d(2),
        _convolution(4 * width, 8 * width),
        nn.MaxPool2d(2),
        _Residual(8 * width),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, classes),
        _Scale(1 / 8),
    )


class _Scale(nn.Module):
    """Shrinks the logits by a constant: maxima over positions are large, and would start training far out."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        return self.factor * logits


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(_convolution(channels, channels), _convolution(channels, channels))

    def forward(self, features: Tensor) -> Tensor:
        return features + cast(Tensor, self.branch(features))


def _convolution(channels: int, filters: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU())


@dataclass(frozen=True)
class Architecture:
    """How to build a network, and the settings that train it well unless the user says otherwise.

    Attributes:
        build: (input shape, classes, width) -> network.
        width: Filters of the first layer.
        optimizer: `adamw` or `sgd` (Nesterov momentum 0.9).
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: Decoupled for AdamW, ℓ2 for SGD.
        bfloat16: Whether training runs in bfloat16 autocast.
        tau: Of DRSL in its default form: the largest that was found to cost no clean accuracy (docs/losses.md).
    """

    build: Callable[[InputShape, int, int], nn.Module]
    width: int
    optimizer: Optimizer
    learning_rate: float
    weight_decay: float
    bfloat16: bool
    tau: float


ARCHITECTURES: Final = {
    "small-cnn": Architecture(small_cnn, 16, "adamw", 2e-3, 1e-2, bfloat16=False, tau=1.0),
    "resnet": Architecture(resnet, 32, "sgd", 0.2, 5e-4, bfloat16=True, tau=0.01),
}
"""Every architecture, by its name."""


def architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        TrainingError: If there is none.
    """
    if name not in ARCHITECTURES:
        raise TrainingError(f"unknown architecture {name!r}: choose one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def build_classifier(
    name: str,
    *,
    input_shape: InputShape,
    classes: int,
    width: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Classifier:
    """A freshly initialised classifier, by the name of its architecture.

    Args:
        name: A key of `ARCHITECTURES`.
        input_shape: (channels, height, width) of the images.
        classes: Number of classes.
        width: Filters of the first layer.
        mean: Of each channel of the training images.
        std: Of each channel of the training images.

    Raises:
        TrainingError: If there is no such architecture, or it does not take such images.
    """
    return Classifier(architecture(name).build(input_shape, classes, width), mean, std)
