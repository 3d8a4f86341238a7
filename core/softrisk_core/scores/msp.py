"""Maximum softmax probability."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.scores.score import LogitScore
from softrisk_core.scores.sorting import gap_and_below


@dataclass(frozen=True)
class MSP(LogitScore):
    """log((1 − p₍₁₎) / p₍₁₎): the order of 1 − p₍₁₎, the baseline of Hendrycks & Gimpel (ICLR 2017).

    The log-odds keep apart what probabilities next to 1 round to one value.
    """

    @property
    def name(self) -> str:
        """`msp`."""
        return "msp"

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Any finite value; 0 where the largest probability is one half."""
        gap, below = gap_and_below(logits)
        odds_against: NDArray[np.float64] = np.log(np.exp(below).sum(axis=1)) - gap[:, 0]
        return odds_against
