"""What every nonconformity score is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.probes import Probe
from softrisk_core.scores.evidence import Evidence


class Score(ABC):
    """A function of what is known about an input, whose larger values are stranger, and whose rank is the risk.

    Attributes:
        tolerance: Absolute and relative: what another implementation, in float32, may differ by on the same evidence.
            Sums of k terms are off by about √k · 6e-8 of their size, and a score has few of them one after another.
    """

    tolerance: ClassVar[float] = 1e-4

    @property
    @abstractmethod
    def name(self) -> str:
        """As it is typed and as it stands in a manifest: `gen`, `logit_gap:low`."""

    @property
    def arrays(self) -> Mapping[str, NDArray[np.float32]]:
        """What was fitted; empty where nothing is. float32, as in the graph."""
        return {}

    @property
    def probes(self) -> tuple[Probe, ...]:
        """Changes of the input that it asks the classifier about."""
        return ()

    @abstractmethod
    def of(self, evidence: Evidence) -> NDArray[np.float64]:
        """Scores of inputs.

        Args:
            evidence: About B inputs, under the probes of this score.

        Returns:
            Shape (B,), finite.
        """

    def compare(
        self, found: NDArray[np.floating], evidence: Evidence
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How far scores by another implementation are from these, and how far they may be.

        Args:
            found: Its scores, shape (B,).
            evidence: Which it computed them from, of B inputs.

        Returns:
            Two arrays of shape (B,); the first is NaN where a score is.
        """
        expected = self.of(evidence)
        return np.abs(found - expected), self.tolerance * (1 + np.abs(expected))


class LogitScore(Score):
    """A score that looks at nothing but logits."""

    @abstractmethod
    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Scores of logits.

        Args:
            logits: Shape (B, C), C ≥ 2, finite.

        Returns:
            Shape (B,), finite.

        Raises:
            ValueError: If the shape is not (B, C) with C ≥ 2.
        """

    def of(self, evidence: Evidence) -> NDArray[np.float64]:
        """Scores of inputs, by their logits."""
        return self(evidence.logits)


class FeatureScore(Score):
    """A score that looks at nothing but the features of the penultimate layer."""

    @property
    @abstractmethod
    def size(self) -> int:
        """D, the number of features that it reads."""

    @abstractmethod
    def __call__(self, features: ArrayLike) -> NDArray[np.float64]:
        """Scores of features.

        Args:
            features: Shape (B, D), finite.

        Returns:
            Shape (B,), finite.
        """

    def of(self, evidence: Evidence) -> NDArray[np.float64]:
        """Scores of inputs, by their features.

        Raises:
            ValueError: If the evidence has none.
        """
        if evidence.features is None:
            raise ValueError(f"{self.name} reads features, and the evidence has none")
        return self(evidence.features)
