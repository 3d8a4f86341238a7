"""Probes: small changes of an image that leave its class as it is.

What a classifier says about a natural image hardly moves under them; an adversarial perturbation is fitted to the very
pixels that it was made for, and often does not survive (Xu, Evans and Qi, NDSS 2018; Hu et al., NeurIPS 2019). Whether
a change keeps the label is a property of the task, so a model's probes are declared by whoever exports it: a mirrored
photograph of a horse still shows a horse, a mirrored 2 is no digit.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.errors import CalibrationError

Images = NDArray[np.float32]
"""Shape (B, C, H, W), float32 in [0, 1]."""

NOISE_SCALE: Final = 8 / 255
"""Standard deviation of the stored noise: what an eye hardly sees, and more than most small attacks add."""

STEPS: Final = 7
"""Steps between the 8 grey levels that are left of each channel: 3 bits, as in Xu et al. for colour images."""


@dataclass(frozen=True)
class Probe(ABC):
    """A change of images that keeps their labels."""

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, images: Images) -> Images:
        """Changed images, of the same shape and range."""


@dataclass(frozen=True)
class Rearrangement(Probe):
    """A probe that takes its rows and columns of pixels from other places of the image."""

    @abstractmethod
    def order(self, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which row each row comes from, shape (H,), and which column each column, shape (W,)."""

    def __call__(self, images: Images) -> Images:
        """Rows and columns in another order."""
        rows, columns = self.order(*images.shape[2:])
        return images[:, :, rows][:, :, :, columns]


@dataclass(frozen=True)
class Flip(Rearrangement):
    """The mirror image, left for right."""

    name: ClassVar[str] = "flip"

    def order(self, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Columns from last to first."""
        return np.arange(height), np.arange(width)[::-1].copy()


@dataclass(frozen=True)
class Shift(Rearrangement):
    """One pixel down and to the left; what leaves the image comes back as a copy of its new border."""

    name: ClassVar[str] = "shift"

    def order(self, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Neighbours, and the border for itself."""
        return np.maximum(np.arange(height) - 1, 0), np.minimum(np.arange(width) + 1, width - 1)


@dataclass(frozen=True, eq=False)
class Noise(Probe):
    """Always the same noise, so that the same image always gets the same answer.

    Attributes:
        values: Added to every image, shape (C, H, W).
    """

    name: ClassVar[str] = "noise"

    values: NDArray[np.float32]

    def __call__(self, images: Images) -> Images:
        """Images with noise, cut to [0, 1]."""
        noisy: Images = np.clip(images + self.values, np.float32(0), np.float32(1))
        return noisy


@dataclass(frozen=True)
class GreyLevels(Probe):
    """Eight levels a channel are left."""

    name: ClassVar[str] = "grey-levels"

    def __call__(self, images: Images) -> Images:
        """Rounded images."""
        rounded: Images = np.rint(images * np.float32(STEPS)) * np.float32(1 / STEPS)
        return rounded


@dataclass(frozen=True)
class Blur(Probe):
    """The binomial 3 × 3 filter, with the border repeated."""

    name: ClassVar[str] = "blur"

    def __call__(self, images: Images) -> Images:
        """Smoothed images."""
        rows = np.pad(images, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="edge")
        smooth = np.float32(0.25) * (rows[:, :, :-2] + rows[:, :, 2:]) + np.float32(0.5) * images
        columns = np.pad(smooth, ((0, 0), (0, 0), (0, 0), (1, 1)), mode="edge")
        both: Images = np.float32(0.25) * (columns[..., :-2] + columns[..., 2:]) + np.float32(0.5) * smooth
        return both


PROBES: Final = (Flip.name, Shift.name, Noise.name, GreyLevels.name, Blur.name)
"""Names of all probes, in the order in which they are run."""


def draw_noise(shape: Sequence[int], seed: int) -> NDArray[np.float32]:
    """Noise to be stored, for images of shape (C, H, W)."""
    return np.random.default_rng(seed).normal(scale=NOISE_SCALE, size=tuple(shape)).astype(np.float32)


def make_probes(names: Sequence[str], noise: NDArray[np.float32]) -> tuple[Probe, ...]:
    """Probes by name.

    Args:
        names: Some of `PROBES`.
        noise: What the noise probe adds, shape (C, H, W).

    Returns:
        In the order of `PROBES`.

    Raises:
        CalibrationError: If a name is unknown or given twice, or there is none.
    """
    if not names or len(set(names)) < len(names) or not set(names) <= set(PROBES):
        raise CalibrationError(f"probes are some of {', '.join(PROBES)}, each once; got {', '.join(names) or 'none'}")
    there = (Flip(), Shift(), Noise(noise), GreyLevels(), Blur())
    return tuple(probe for probe in there if probe.name in names)
