"""Generalised entropy."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.scores.score import LogitScore
from softrisk_core.scores.sorting import gap_and_below

GAMMA: Final = 0.1
LARGEST: Final = 100
"""γ and M as the paper has them."""


@dataclass(frozen=True)
class GEN(LogitScore):
    """Σ p^γ (1 − p)^γ over the M largest probabilities, γ = 0.1, M = 100 (Liu et al., CVPR 2023, eq. 3)."""

    @property
    def name(self) -> str:
        """`gen`."""
        return "gen"

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """≥ 0."""
        gap, below = gap_and_below(logits)
        log_odds_against = np.log(np.exp(below).sum(axis=1, keepdims=True)) - gap
        log_first = -np.logaddexp(0, log_odds_against)
        log_others = below - gap + log_first
        # 1 − p₍₁₎ from the others, as it would cancel; no other probability exceeds one half.
        products = [2 * log_first + log_odds_against, log_others + np.log1p(-np.exp(log_others))]
        total: NDArray[np.float64] = np.exp(GAMMA * np.concatenate(products, axis=1)[:, :LARGEST]).sum(axis=1)
        return total
