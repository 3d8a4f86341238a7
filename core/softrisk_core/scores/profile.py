"""Class-conditional density of the sorted logits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.errors import CalibrationError
from softrisk_core.scores.score import LogitScore
from softrisk_core.scores.sorting import descending

LARGEST: Final = 16
"""Of the sorted logits; those further down are noise, and there may be thousands."""

RIDGE: Final = 1e-3
"""Added to the variances, relative to them, so that steps which always move together have no infinite weight."""

_ROUNDING: Final = 1e-5
_ROWS_A_STEP: Final = 5

_FEWEST: Final = 20
"""Rows of a class from which its own mean is taken; below, it is the mean of all."""


@dataclass(frozen=True)
class LogitProfile(LogitScore):
    """Mahalanobis distance of the sorted logits' profile from the mean profile of the predicted class.

    The profile is z₍₁₎ and the steps z₍₁₎ − z₍₂₎, z₍₂₎ − z₍₃₎, … of the 16 largest logits. One covariance for all
    classes, as for features in Lee et al. (NeurIPS 2018, eq. 1–2). It is strange to be too sure, too.

    Attributes:
        means: By class, shape (C, M).
        whitening: W with W Wᵀ the inverse covariance, shape (M, M).
    """

    means: NDArray[np.float32]
    whitening: NDArray[np.float32]

    @classmethod
    def fit(cls, logits: ArrayLike) -> "LogitProfile":
        """From the logits of clean data.

        Raises:
            CalibrationError: If the rows are too few for a covariance, or a step never varies.
        """
        z = np.asarray(logits, dtype=np.float64)
        profiles, predicted = profile(z), z.argmax(axis=1)
        rows, size = profiles.shape
        if rows < _ROWS_A_STEP * size:
            raise CalibrationError(
                f"the logit profile needs {_ROWS_A_STEP * size} rows to fit its {size} variances and their "
                f"correlations, and {rows} are set apart for it: give more clean data, or another score"
            )
        means = np.tile(profiles.mean(axis=0), (z.shape[1], 1))
        for label in range(z.shape[1]):
            members = predicted == label
            if members.sum() >= _FEWEST:
                means[label] = profiles[members].mean(axis=0)
        covariance = np.cov(profiles - means[predicted], rowvar=False)
        variances = np.diag(covariance)
        # What is the same on all rows has the variance of its rounding.
        if not np.all(variances > np.square(_ROUNDING * np.abs(profiles).max(axis=0))):
            raise CalibrationError("a step between sorted logits is the same on all clean rows; choose another score")
        whitening = np.linalg.cholesky(np.linalg.inv(covariance + RIDGE * np.diag(variances)))
        return cls(means.astype(np.float32), whitening.astype(np.float32))

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[np.float32]]) -> "LogitProfile":
        """From `arrays`."""
        return cls(arrays["means"], arrays["whitening"])

    @property
    def name(self) -> str:
        """`logit-profile`."""
        return "logit-profile"

    @property
    def arrays(self) -> Mapping[str, NDArray[np.float32]]:
        """`means` and `whitening`."""
        return {"means": self.means, "whitening": self.whitening}

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """≥ 0, in standard deviations."""
        z = np.asarray(logits, dtype=np.float64)
        deviations = (profile(z) - self.means[z.argmax(axis=1)]) @ self.whitening.astype(np.float64)
        distances: NDArray[np.float64] = np.sqrt(np.square(deviations).sum(axis=1))
        return distances


def profile(logits: ArrayLike) -> NDArray[np.float64]:
    """The largest logit and the steps down from it.

    Args:
        logits: Shape (B, C), C ≥ 2.

    Returns:
        Shape (B, M), M = min(C, 16).
    """
    z = descending(logits, LARGEST)
    return np.concatenate([z[:, :1], z[:, :-1] - z[:, 1:]], axis=1)
