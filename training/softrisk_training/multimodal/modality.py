"""What one input of a multi-modal classifier is."""

from dataclasses import dataclass
from typing import Final

PIXELS: Final = "pixels"
LOG_MEL: Final = "log-mel"

SAMPLE_RATE: Final = 8000
"""Samples a second, of every recording."""


@dataclass(frozen=True)
class Modality:
    """One input.

    Attributes:
        name: Of the input in the graph and in requests.
        shape: Of one instance, without the batch axis.
        domain: Least and greatest valid value.
        sample_rate: Samples a second if it is a recording; None if it is not.
        space: Where radii and certified attacks measure changes: `pixels` is the input itself, `log-mel` what the
            front end makes of a waveform.
    """

    name: str
    shape: tuple[int, ...]
    domain: tuple[float, float]
    sample_rate: int | None
    space: str


def image_modality(shape: tuple[int, int, int]) -> Modality:
    """An image, (channels, height, width), of values in [0, 1]."""
    return Modality("image", shape, (0.0, 1.0), None, PIXELS)


def audio_modality(samples: int) -> Modality:
    """A recording of one channel, of values in [−1, 1]; zeros follow one that is shorter."""
    return Modality("audio", (samples,), (-1.0, 1.0), SAMPLE_RATE, LOG_MEL)
