"""Class-conditional density of the penultimate features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.errors import CalibrationError
from softrisk_core.scores.evidence import Evidence
from softrisk_core.scores.score import FeatureScore

_LEAST_SHRINKAGE: Final = 1e-3
"""So that what never varies on clean data has no infinite weight, however many rows there are."""

_ROWS_A_CLASS: Final = 2
"""Of the predicted classes on average; each row leaves less of the spread around its own mean the fewer there are."""


@dataclass(frozen=True, eq=False)
class Mahalanobis(FeatureScore):
    """Distance of the features from the nearest class mean, by one covariance for all classes.

    Lee et al. (NeurIPS 2018, eq. 1–2), of the last layer alone and without its input perturbation; the classes are the
    predicted ones. The covariance is shrunk as by Ledoit and Wolf (J. Multivariate Anal. 88, 2004), because there may
    be more features than rows.

    Attributes:
        center: The mean of all features, shape (D,).
        whitening: W with W Wᵀ the inverse covariance, shape (D, D).
        means: Of the K classes that were predicted at all, less `center` and whitened, shape (K, D).
    """

    center: NDArray[np.float32]
    whitening: NDArray[np.float32]
    means: NDArray[np.float32]

    @classmethod
    def fit(cls, clean: Evidence) -> "Mahalanobis":
        """From the features of clean data, shape (n, D), and the classes that the logits predict.

        Raises:
            CalibrationError: If the rows are too few, or too much alike, for a covariance.
        """
        assert clean.features is not None
        center = clean.features.mean(axis=0)
        features, predicted = clean.features - center, clean.logits.argmax(axis=1)
        classes, index = np.unique(predicted, return_inverse=True)
        if len(features) < _ROWS_A_CLASS * len(classes):
            raise CalibrationError(
                f"mahalanobis needs {_ROWS_A_CLASS * len(classes)} rows for the means of {len(classes)} predicted "
                f"classes, and {len(features)} are set apart for it: give more clean data, or another score"
            )
        means = np.stack([features[index == position].mean(axis=0) for position in range(len(classes))])
        whitening = _whitening(features - means[index])
        return cls(center.astype(np.float32), whitening.astype(np.float32), (means @ whitening).astype(np.float32))

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[np.float32]]) -> "Mahalanobis":
        """From `arrays`."""
        return cls(arrays["center"], arrays["whitening"], arrays["means"])

    @property
    def name(self) -> str:
        """`mahalanobis`."""
        return "mahalanobis"

    @property
    def arrays(self) -> Mapping[str, NDArray[np.float32]]:
        """`center`, `whitening` and `means`."""
        return {"center": self.center, "whitening": self.whitening, "means": self.means}

    @property
    def size(self) -> int:
        """D."""
        return len(self.center)

    def __call__(self, features: ArrayLike) -> NDArray[np.float64]:
        """≥ 0, in standard deviations."""
        means = self.means.astype(np.float64)
        whitened = (np.asarray(features, np.float64) - self.center) @ self.whitening.astype(np.float64)
        nearest = (whitened @ means.T - np.square(means).sum(axis=1) / 2).argmax(axis=1)
        distances: NDArray[np.float64] = np.sqrt(np.square(whitened - means[nearest]).sum(axis=1))
        return distances


def _whitening(deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """W with W Wᵀ the inverse of the shrunk covariance of centred rows, shape (n, D)."""
    rows, size = deviations.shape
    covariance = deviations.T @ deviations / rows
    variance = np.trace(covariance) / size
    if not variance > 0:
        raise CalibrationError("the features of each predicted class are the same on all clean rows")
    squared_size = np.square(covariance).sum()
    dispersion = squared_size - size * variance**2
    noise = (np.square(np.square(deviations).sum(axis=1)).sum() / rows - squared_size) / rows
    shrinkage = max(min(noise / dispersion, 1.0) if dispersion > 0 else 1.0, _LEAST_SHRINKAGE)
    covariance *= 1 - shrinkage
    covariance[np.diag_indices(size)] += shrinkage * variance
    whitening: NDArray[np.float64] = np.linalg.inv(np.linalg.cholesky(covariance)).T
    return whitening
