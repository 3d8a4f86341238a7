"""DOCTOR."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.scores.score import LogitScore
from softrisk_core.scores.sorting import gap_and_below


@dataclass(frozen=True)
class Doctor(LogitScore):
    """log of D_α = (1 − Σ p²) / Σ p² (Granese et al., NeurIPS 2021, eq. 9), the odds of two draws to disagree.

    The logarithm keeps the order, and keeps apart what vanishes in 1 − Σ p² where a prediction is sure.
    """

    @property
    def name(self) -> str:
        """`doctor`."""
        return "doctor"

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Any finite value; 0 where two draws agree as often as not."""
        gap, below = gap_and_below(logits)
        # With r = p / p₍₁₎: a = Σ_N r and b = Σ_N r², and D = (2a + a² − b) / (1 + b), where a is taken out of the sum.
        largest = np.exp(-gap[:, 0])
        sum_below, squares_below = np.exp(below).sum(axis=1), np.exp(2 * below).sum(axis=1)
        log_a = np.log(sum_below) - gap[:, 0]
        agreement = np.log1p(np.square(largest) * squares_below)
        odds: NDArray[np.float64] = log_a + np.log(2 + largest * (sum_below - squares_below / sum_below)) - agreement
        return odds
