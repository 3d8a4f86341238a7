"""Sound upper bounds of an encoder's Lipschitz constant, and of what float32 adds, from its weights alone.

Everything is computed in float64 and rounded up. The constant of a network is at most the product of those of its
layers. That of a linear layer is its largest singular value. A convolution with zeros around is part of one on a torus
just large enough, and that one is a multiplication of each frequency by a matrix: its norm is the largest singular
value over all frequencies (Sedghi et al., ICLR 2019), and bounds the part. No power iteration: that is a lower bound.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from softrisk_training.errors import TrainingError
from softrisk_training.multimodal.encoders import MaxMin, Normalise, Plane

UNIT_ROUNDOFF: Final = 2.0**-24
"""Of float32."""

MARGIN: Final = 1 + 1e-9
"""Rounds up what float64 computed: far more than its singular values are off, far less than anybody sees."""

NormOf = Callable[[NDArray[np.float64]], float]


@dataclass(frozen=True)
class Bound:
    """What is known of a vector that a network computes.

    Attributes:
        slope: Lipschitz constant, as a function of the input.
        norm: Largest ℓ2 norm for inputs of the given norm.
        rounding: Largest ℓ2 distance between what float32 computes and the exact vector, whatever the order of sums.
        shape: Of the vector: (channels, height, width) or (features,).
    """

    slope: float
    norm: float
    rounding: float
    shape: tuple[int, ...]


def bound_network(layers: Iterable[nn.Module], plane: Plane, norm: float) -> Bound:
    """Bounds of a sequence of layers.

    Args:
        layers: Of the kinds that encoders are made of.
        plane: Shape of the input.
        norm: Largest ℓ2 norm of an input.

    Raises:
        TrainingError: If a layer is of another kind, for which no bound is known here.
    """
    bound = Bound(1.0, norm, 0.0, plane)
    for layer in layers:
        bound = _through(layer, bound)
    return bound


def linear_norm(weight: NDArray[np.float64]) -> float:
    """Upper bound of the spectral norm of a matrix."""
    return float(np.linalg.norm(weight, 2)) * MARGIN


def convolution_norm(kernel: NDArray[np.float64], height: int, width: int) -> float:
    """Upper bound of the norm of a convolution with zeros around and stride 1.

    Args:
        kernel: Shape (outputs, inputs, k, k).
        height: Of the images.
        width: Of the images.
    """
    size = kernel.shape[-1]
    torus = (height + size - 1, width + size - 1)
    # The kernel is real, so that half of the frequencies have the singular values of the other half.
    responses = np.fft.rfft2(kernel, s=torus).transpose(2, 3, 0, 1)
    return float(np.linalg.norm(responses, 2, axis=(2, 3)).max()) * MARGIN


def dot_error(terms: int) -> float:
    """γ_n: the largest relative error of a sum of n products in float32, in any order (Higham, 2002, section 3.1)."""
    return terms * UNIT_ROUNDOFF / (1 - terms * UNIT_ROUNDOFF)


def _through(layer: nn.Module, bound: Bound) -> Bound:
    match layer:
        case Normalise():
            norm = bound.norm + abs(layer.mean) * math.sqrt(math.prod(bound.shape))
            rounding = (bound.rounding + dot_error(4) * (norm + bound.rounding)) / layer.std
            return Bound(bound.slope / layer.std * MARGIN, norm / layer.std, rounding, bound.shape)
        case nn.Linear():
            return _affine(layer, linear_norm, bound, (layer.out_features,), layer.in_features)
        case nn.Conv2d():
            return _convolution(layer, bound)
        case nn.MaxPool2d(kernel_size=int(step), stride=hop, padding=0, dilation=1, ceil_mode=False) if hop == step:
            # Each value is in one maximum: no output changes by more than its patch does.
            channels, height, width = bound.shape
            return Bound(bound.slope, bound.norm, bound.rounding, (channels, height // step, width // step))
        case nn.PixelUnshuffle():
            channels, height, width = bound.shape
            step = layer.downscale_factor
            shape = (channels * step * step, height // step, width // step)
            return Bound(bound.slope, bound.norm, bound.rounding, shape)
        case nn.Flatten():
            return Bound(bound.slope, bound.norm, bound.rounding, (math.prod(bound.shape),))
        case nn.ReLU() | MaxMin():
            return bound
        case _:
            raise TrainingError(f"no Lipschitz bound is known for a layer {type(layer).__name__}")


def _convolution(layer: nn.Conv2d, bound: Bound) -> Bound:
    _, height, width = bound.shape
    size, padding = layer.kernel_size[0], layer.padding
    plain = layer.stride == layer.dilation == (1, 1) and layer.groups == 1 and layer.padding_mode == "zeros"
    if not plain or layer.kernel_size != (size, size) or padding != (size // 2, size // 2) or size % 2 == 0:
        raise TrainingError(f"no Lipschitz bound is known for the convolution {layer}")
    shape = (layer.out_channels, height, width)
    terms = layer.in_channels * size * size
    return _affine(layer, lambda kernel: convolution_norm(kernel, height, width), bound, shape, terms)


def _affine(layer: nn.Linear | nn.Conv2d, norm_of: NormOf, bound: Bound, shape: tuple[int, ...], terms: int) -> Bound:
    weight = layer.weight.detach().double().cpu().numpy()
    bias = 0.0
    if layer.bias is not None:
        bias = float(np.linalg.norm(layer.bias.detach().double().cpu().numpy())) * math.sqrt(math.prod(shape[1:]))
    norm, absolute = norm_of(weight), norm_of(np.abs(weight))
    rounding = norm * bound.rounding + dot_error(terms + 1) * (absolute * (bound.norm + bound.rounding) + bias)
    return Bound(bound.slope * norm, norm * bound.norm + bias, rounding, shape)
