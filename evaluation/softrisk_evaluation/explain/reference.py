"""A value among those of clean calibration data, from the histograms that a bundle keeps."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_evaluation.directions import Strange

SHOWN: Final = (0.001, 0.999)
"""Quantiles of the clean data between which a histogram is drawn: a single outlier would flatten all the rest."""

BINS: Final = 40


@dataclass(frozen=True)
class Reference:
    """Values of a diagnostic on clean calibration data, as `CalibrationArrays.histograms` keeps them.

    Attributes:
        edges: Ascending, shape (k + 1,); the first is the least value and the last the greatest.
        counts: Shape (k,).
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def _cumulative(self) -> NDArray[np.float64]:
        return np.concatenate([[0.0], np.cumsum(self.counts) / self.counts.sum()])

    def percentile(self, value: float) -> float:
        """Share of the clean values that are smaller, in [0, 1]; between two edges by a straight line."""
        return float(np.interp(value, self.edges, self._cumulative))

    def bars(self, low: float, high: float) -> NDArray[np.float64]:
        """Shares of the clean values in `BINS` bins of equal width from low to high, shape (BINS,)."""
        within = np.interp(np.linspace(low, high, BINS + 1), self.edges, self._cumulative)
        shares: NDArray[np.float64] = np.diff(within)
        return shares

    def span(self, values: list[float]) -> tuple[float, float]:
        """What an axis has to show for all of these values and most clean ones; never empty."""
        usual = np.interp(SHOWN, self._cumulative, self.edges).tolist()
        low, high = min(usual + values), max(usual + values)
        return (low, high) if high > low else (low - 0.5, high + 0.5)


@dataclass(frozen=True)
class Reading:
    """A diagnostic of one image among those of clean data.

    Attributes:
        name: Of the diagnostic.
        value: What the artifact says.
        strange: Its strange side.
        percentile: Share of clean data below, in [0, 1].
    """

    name: str
    value: float
    strange: Strange
    percentile: float

    @property
    def tail(self) -> float:
        """Share of clean data that is at least as strange, in [0, 1]."""
        return self.percentile if self.strange == "low" else 1 - self.percentile
