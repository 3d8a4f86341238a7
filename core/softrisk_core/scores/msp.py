"""Maximum softmax probability."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.scores.score import Score
from softrisk_core.scores.sorting import gap_and_below


@dataclass(frozen=True)
class MSP(Score):
    """−log p₍₁₎: the order of 1 − p₍₁₎, the baseline of Hendrycks & Gimpel (ICLR 2017).

    The logarithm keeps apart what float32 probabilities next to 1 round to one value.
    """

    @property
    def name(self) -> str:
        """`msp`."""
        return "msp"

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """In nats, in [0, log C]."""
        gap, below = gap_and_below(logits)
        surprise: NDArray[np.float64] = np.log1p((np.exp(-gap) * np.exp(below)).sum(axis=1))
        return surprise
