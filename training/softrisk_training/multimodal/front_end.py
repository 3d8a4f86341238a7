"""Waveform to log-mel plane, inside the graph, in plain operators.

Attack, export and every runtime thereby see the same function of the same waveform: there is no second front end, in
another library and with another padding, between them.
"""

import math
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from softrisk_training.multimodal.modality import SAMPLE_RATE

WINDOW: Final = 256
"""Samples in a frame, 32 ms: about two periods of a low voice, so that harmonics begin to merge into formants."""

HOP: Final = 128
PADDING: Final = 160
"""Zeros before and behind the recording. With them a second makes 64 frames, which can be halved often."""

MELS: Final = 32
LOWEST: Final = 60.0
"""Hz: where the mel bands begin, above the hum of mains."""

FLOOR: Final = 1e-6
"""Power, of a full-scale sine, that counts as silence: −60 dB. It bounds the slope of the logarithm, too."""


def frames_of(samples: int) -> int:
    """How many frames a recording has."""
    return (samples + 2 * PADDING - WINDOW) // HOP + 1


def largest_norm(frames: int) -> float:
    """What the ℓ2 norm of a log-mel plane cannot exceed, whatever the waveform in [−1, 1].

    By Parseval a frame has no more power than its window lets through, and no frequency counts for more than 1 in all
    bands together. Of one sum of powers the squared logarithms are largest where all bands have the same.
    """
    bands, window = mel_bands().astype(np.float64), _window()
    # Frequencies between 0 and the highest stand for two of the transform each.
    power = WINDOW * np.square(window).sum() / (window.sum() / 2) ** 2
    each = bands.sum(axis=0).max() * power / MELS
    return math.sqrt(frames * MELS) * math.log1p(each / FLOOR) / math.log1p(1 / FLOOR)


class LogMel(nn.Module):
    """Waveform in [−1, 1] to a log-mel plane in units of the dynamic range.

    Frames of 256 samples under a Hann window, each 128 after the last; the power spectrum by a convolution with fixed
    sines and cosines, so normalised that a full-scale sine has power 1; 32 triangular bands, equally wide in mel,
    2595 log₁₀(1 + f/700), from 60 Hz to half the sample rate; then log(1 + P/F) / log(1 + 1/F) with the floor
    F = 10⁻⁶. Silence is 0, a full-scale sine about 1, and a difference of 0.1 is 6 dB well above the floor.
    """

    transform: Tensor
    bands: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Constants of the function, not of a training: they have no place among the weights of a checkpoint.
        self.register_buffer("transform", torch.from_numpy(_transform())[:, None], persistent=False)
        self.register_buffer("bands", torch.from_numpy(mel_bands())[:, :, None], persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Planes, shape (B, 1, 32, frames), of waveforms (B, samples)."""
        spectrum = F.conv1d(waveform[:, None], self.transform, stride=HOP, padding=PADDING)
        real, imaginary = spectrum.chunk(2, dim=1)
        power = F.conv1d(real * real + imaginary * imaginary, self.bands)
        return (1 + power / FLOOR).log()[:, None] / math.log1p(1 / FLOOR)


def _transform() -> NDArray[np.float32]:
    """Windowed cosines over windowed sines, shape (2 · (WINDOW / 2 + 1), WINDOW)."""
    window = _window()
    phase = 2 * np.pi * np.arange(WINDOW // 2 + 1)[:, None] * np.arange(WINDOW) / WINDOW
    # A full-scale sine has half the sum of the window as its magnitude.
    waves: NDArray[np.float64] = np.concatenate([np.cos(phase), np.sin(phase)]) * window / (window.sum() / 2)
    return waves.astype(np.float32)


def _window() -> NDArray[np.float64]:
    """Hann's, periodic."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)


def mel_bands() -> NDArray[np.float32]:
    """Weights of the power spectrum in each band, shape (MELS, WINDOW / 2 + 1), peaks of at most 1."""

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    edges = 700 * (10 ** (np.linspace(mel(LOWEST), mel(SAMPLE_RATE / 2), MELS + 2) / 2595) - 1)
    frequencies = np.arange(WINDOW // 2 + 1) * SAMPLE_RATE / WINDOW
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return cast(NDArray[np.float32], np.maximum(np.minimum(rising, falling), 0).astype(np.float32))
