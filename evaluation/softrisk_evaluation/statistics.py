"""Intervals and detection figures: the arithmetic behind every number of a report.

Scores are oriented here so that larger is stranger; attacked inputs are the positives, clean ones the negatives.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import betabinom, binomtest
from sklearn.metrics import roc_auc_score

CONFIDENCE: Final = 0.95
"""Of every interval in a report."""

_RESAMPLES: Final = 10_000

_ROUNDING: Final = 1e-9
"""Allowance for rate · count being an integer in exact arithmetic but just below one in float64."""


class Bounds(NamedTuple):
    """A closed interval."""

    low: float
    high: float


def clopper_pearson(successes: int, trials: int) -> Bounds:
    """Exact 95 % confidence interval of a proportion; never too narrow (Clopper & Pearson, Biometrika 1934).

    Args:
        successes: 0 … trials.
        trials: ≥ 1.

    Returns:
        Bounds in [0, 1].
    """
    interval = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="exact")
    return Bounds(float(interval.low), float(interval.high))


def crossed_bootstrap(values: ArrayLike) -> Bounds:
    """95 % interval of the mean of figures that vary with the training and with the image.

    Seeds and images are both drawn anew, independently, with replacement (the pigeonhole bootstrap of Owen,
    arXiv 0712.1111); its variance is, but for the few seeds that there are, too large rather than too small.

    Args:
        values: One figure for each seed and image, shape (S, N); S = 1 leaves the images alone to vary.

    Returns:
        The 2.5 % and 97.5 % quantiles of the resampled means.
    """
    table = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(0)
    seeds, images = (
        generator.multinomial(size, np.full(size, 1 / size), size=_RESAMPLES) / size for size in table.shape
    )
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(((seeds @ table) * images).sum(axis=1), (tail, 1 - tail))
    return Bounds(float(low), float(high))


class GroupAlarms(NamedTuple):
    """What the number of false alarms in one calibration group depends on.

    Attributes:
        rank_limit: Largest flagged rank, 0 … n; 0 flags nothing.
        n: Number of calibration scores.
        judged: Number of clean inputs, ≥ 0.
    """

    rank_limit: int
    n: int
    judged: int


@dataclass(frozen=True)
class FalseAlarmLaw:
    """How many clean inputs a calibrated flag flags, by chance alone.

    With n calibration scores and `judged` clean inputs, all exchangeable and without ties, the number that gets a
    rank ≤ `rank_limit` follows BetaBinomial(judged, rank_limit, n + 1 − rank_limit) (Vovk, "Conditional validity
    of inductive conformal predictors", 2012; Bates et al., arXiv 2104.08279). Ties make alarms rarer. Several groups
    add up independent numbers.

    Attributes:
        masses: Probabilities of 0 … m alarms among all m ≥ 1 inputs, shape (m + 1,).
    """

    masses: NDArray[np.float64]

    @classmethod
    def of(cls, groups: Iterable[GroupAlarms]) -> Self:
        """The law for all groups together."""
        total = np.ones(1)
        for limit, n, judged in groups:
            if limit:
                total = np.convolve(total, betabinom(judged, limit, n + 1 - limit).pmf(np.arange(judged + 1)))
            else:
                total = np.pad(total, (0, judged))
        return cls(total)

    @property
    def judged(self) -> int:
        """Number of inputs m."""
        return self.masses.size - 1

    @property
    def bounds(self) -> Bounds:
        """Where the realised rate lies in 95 % of all cases: the 2.5 % and 97.5 % quantiles, as rates in [0, 1]."""
        tail = (1 - CONFIDENCE) / 2
        low, high = np.searchsorted(self._cumulative, (tail, 1 - tail))
        return Bounds(float(low) / self.judged, float(high) / self.judged)

    @property
    def inside(self) -> float:
        """Probability that the realised rate lies within `bounds`: ≥ 0.95, as counts are integers."""
        low, high = (round(rate * self.judged) for rate in self.bounds)
        return float(self.masses[low : high + 1].sum())

    def above(self, alpha: float) -> float:
        """Probability that the realised rate exceeds α."""
        return float(self.masses[math.floor(alpha * self.judged + _ROUNDING) + 1 :].sum())

    @cached_property
    def _cumulative(self) -> NDArray[np.float64]:
        return np.cumsum(self.masses)


def auroc(clean: ArrayLike, attacked: ArrayLike) -> float | None:
    """Probability that an attacked input scores above a clean one, ties counting one half (Mann–Whitney).

    Args:
        clean: Scores of the negatives, shape (m,).
        attacked: Scores of the positives, shape (k,).

    Returns:
        In [0, 1]; None if either is empty.
    """
    negatives, positives = np.asarray(clean), np.asarray(attacked)
    if negatives.size == 0 or positives.size == 0:
        return None
    is_attacked = np.concatenate([np.zeros(negatives.size), np.ones(positives.size)])
    return float(roc_auc_score(is_attacked, np.concatenate([negatives, positives])))


def threshold_at(clean: ArrayLike, false_alarms: float) -> float:
    """The lowest threshold t for which "score > t" flags at most this share of the clean scores.

    Args:
        clean: Scores of clean inputs, shape (m,), m ≥ 1.
        false_alarms: In [0, 1).

    Returns:
        One of the clean scores.
    """
    ordered = np.sort(np.asarray(clean))
    allowed = math.floor(false_alarms * ordered.size + _ROUNDING)
    return float(ordered[ordered.size - 1 - allowed])
