"""What the ascent moves: numbers that are pixels in [0, 1] whatever their values."""

from typing import Final, Literal, Protocol

import torch
from torch import Tensor

ParameterisationKind = Literal["fourier", "pixel"]

_EDGE: Final = 0.02
"""The start is kept this far from black and white, where a sigmoid is flat."""

_NOISE: Final = 1.0
"""Standard deviation of the noise at the start, before the sigmoid. Less would leave networks that overlook small
changes, as adversarially trained ones do, without a gradient."""

_COLOURS: Final = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""Rows red, green, blue: a root of the covariance of colours in ImageNet (tensorflow/lucid, `color.py`)."""


class Parameterisation(Protocol):
    """A way to write images."""

    def start(self, noise: Tensor) -> Tensor:
        """Parameters of images of noise about the mean colour.

        Args:
            noise: Standard normal, shape (B, C, H, W).
        """
        ...

    def images(self, parameters: Tensor) -> Tensor:
        """Pixels in [0, 1], shape (B, C, H, W)."""
        ...


class Pixels:
    """One parameter for each pixel, through a sigmoid.

    Args:
        mean: Of each channel, in [0, 1], shape (1, C, 1, 1).
    """

    def __init__(self, mean: Tensor) -> None:
        self._base = mean.clamp(_EDGE, 1 - _EDGE).logit()

    def start(self, noise: Tensor) -> Tensor:
        """The noise itself."""
        return _NOISE * noise

    def images(self, parameters: Tensor) -> Tensor:
        """The sigmoid of the parameters, 0 being the mean colour."""
        return torch.sigmoid(self._base + parameters)


class Fourier:
    """Amplitudes of waves, the long ones weighed more, through a sigmoid: the ascent draws shapes before grain.

    Weights are one over the frequency, which is how amplitudes fall in natural images; three channels are mixed from
    colours that are uncorrelated there (Olah et al., "Feature Visualization", Distill 2017).

    Args:
        mean: Of each channel, in [0, 1], shape (1, C, 1, 1).
        height: Of the images, in pixels.
        width: Of the images, in pixels.
    """

    def __init__(self, mean: Tensor, height: int, width: int) -> None:
        self._base = mean.clamp(_EDGE, 1 - _EDGE).logit()
        self._size = (height, width)
        frequencies = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
        weights = 1 / frequencies.clamp(min=1 / max(height, width))
        weights /= weights.square().mean().sqrt()
        self._weights = weights[:, : width // 2 + 1].to(mean.device)
        colours = torch.tensor(_COLOURS, device=mean.device)
        self._colours = colours / colours.norm(dim=1).max() if mean.shape[1] == 3 else None

    def start(self, noise: Tensor) -> Tensor:
        """The spectrum of the noise, real and imaginary parts last."""
        return torch.view_as_real(_NOISE * torch.fft.rfft2(noise, norm="ortho"))

    def images(self, parameters: Tensor) -> Tensor:
        """The sigmoid of the sum of the waves, no wave being the mean colour."""
        waves = torch.fft.irfft2(self._weights * torch.view_as_complex(parameters), s=self._size, norm="ortho")
        if self._colours is not None:
            waves = torch.einsum("kc,bchw->bkhw", self._colours, waves)
        return torch.sigmoid(self._base + waves)


def make_parameterisation(kind: ParameterisationKind, mean: Tensor, height: int, width: int) -> Parameterisation:
    """The parameterisation of that name."""
    return Fourier(mean, height, width) if kind == "fourier" else Pixels(mean)
