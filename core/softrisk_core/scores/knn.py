"""Distance from clean features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.errors import CalibrationError
from softrisk_core.scores.evidence import Evidence
from softrisk_core.scores.score import FeatureScore

NEAREST: Final = 10
"""k, as of Sun et al. where they keep a hundredth of ImageNet's training rows."""

ROWS: Final = 1000
"""At most so many clean rows are kept: all of them are in the graph, and every input is compared with each."""

TINY: Final = 1e-10
"""Least length that features are divided by."""


@dataclass(frozen=True, eq=False)
class KNN(FeatureScore):
    """Distance of the features, scaled to length 1, from their k-th nearest clean ones, k = 10.

    Sun et al. (ICML 2022, section 3).

    Attributes:
        rows: Clean features of length 1, shape (n, D), n ≥ k.
    """

    rows: NDArray[np.float32]

    @classmethod
    def fit(cls, clean: Evidence) -> "KNN":
        """From the features of clean data, shape (n, D).

        Raises:
            CalibrationError: If the rows are too few.
        """
        assert clean.features is not None
        n = len(clean.features)
        if n < NEAREST:
            raise CalibrationError(
                f"knn needs {NEAREST} rows, and {n} are set apart for it: give more clean data, or another score"
            )
        # Rows may lie class by class.
        chosen = np.unique(np.linspace(0, n - 1, ROWS).astype(np.int64))
        return cls(_scaled(clean.features[chosen]).astype(np.float32))

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[np.float32]]) -> "KNN":
        """From `arrays`."""
        return cls(arrays["rows"])

    @property
    def name(self) -> str:
        """`knn`."""
        return "knn"

    @property
    def arrays(self) -> Mapping[str, NDArray[np.float32]]:
        """`rows`."""
        return {"rows": self.rows}

    @property
    def size(self) -> int:
        """D."""
        return int(self.rows.shape[1])

    def __call__(self, features: ArrayLike) -> NDArray[np.float64]:
        """In [0, 2]."""
        directions, rows = _scaled(np.asarray(features, np.float64)), self.rows.astype(np.float64)
        neighbour = np.argsort(-(directions @ rows.T), axis=1, kind="stable")[:, NEAREST - 1]
        distances: NDArray[np.float64] = np.sqrt(np.square(directions - rows[neighbour]).sum(axis=1))
        return distances


def _scaled(features: NDArray[np.float64]) -> NDArray[np.float64]:
    directions: NDArray[np.float64] = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), TINY)
    return directions
