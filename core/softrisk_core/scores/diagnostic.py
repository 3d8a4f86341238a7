"""One diagnostic as a score: one side of it is strange, or both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.diagnostics import diagnose
from softrisk_core.errors import CalibrationError
from softrisk_core.scores.score import Score

Side = Literal["low", "high"]

EDGES: Final = (0.05, 0.95)
"""Quantiles of the clean values that score 1 on either side of a two-sided score."""


@dataclass(frozen=True)
class OneSided(Score):
    """A diagnostic of which small values are strange, or large ones.

    Attributes:
        diagnostic: Its name.
        strange: The strange side.
    """

    diagnostic: str
    strange: Side

    @property
    def name(self) -> str:
        """`logit_gap:low`."""
        return f"{self.diagnostic}:{self.strange}"

    @property
    def sign(self) -> float:
        """Factor from diagnostic to score."""
        return 1.0 if self.strange == "high" else -1.0

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """The diagnostic, or its negative."""
        return self.sign * diagnose(logits)[self.diagnostic]


@dataclass(frozen=True)
class TwoSided(Score):
    """How far a diagnostic d is from its median m on clean data, on the scale of that side.

    max( (m − d) / (m − q₅), (d − m) / (q₉₅ − m) ) with the 5 % and 95 % quantiles q of clean values: 0 at the median,
    1 at either quantile. A strong attack makes a classifier surer than clean inputs do (Ozbulak et al.,
    arXiv 1907.12744), which no score of one side sees.

    Attributes:
        diagnostic: Its name.
        center: m.
        low: m − q₅ > 0.
        high: q₉₅ − m > 0.
    """

    diagnostic: str
    center: np.float32
    low: np.float32
    high: np.float32

    @classmethod
    def fit(cls, diagnostic: str, logits: ArrayLike) -> "TwoSided":
        """From the logits of clean data.

        Raises:
            CalibrationError: If the diagnostic has no spread on one of the sides.
        """
        values = diagnose(logits)[diagnostic]
        bottom, center, top = np.quantile(values, (EDGES[0], 0.5, EDGES[1])).astype(np.float32)
        if not bottom < center < top:
            raise CalibrationError(
                f"{diagnostic} has no spread on both sides of its median, {center:g}, on clean data, so that a "
                f"two-sided score of it has no scale; score another diagnostic, or one side: {diagnostic}:low"
            )
        return cls(diagnostic, center, center - bottom, top - center)

    @classmethod
    def load(cls, diagnostic: str, arrays: Mapping[str, NDArray[np.float32]]) -> "TwoSided":
        """From `arrays`."""
        return cls(diagnostic, *(np.float32(arrays[key]) for key in ("center", "low", "high")))

    @property
    def name(self) -> str:
        """`logit_gap:two-sided`."""
        return f"{self.diagnostic}:two-sided"

    @property
    def arrays(self) -> Mapping[str, NDArray[np.float32]]:
        """`center`, `low` and `high`, without axes."""
        return {"center": np.array(self.center), "low": np.array(self.low), "high": np.array(self.high)}

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """≥ 0."""
        deviation = diagnose(logits)[self.diagnostic] - np.float64(self.center)
        return np.maximum(-deviation / np.float64(self.low), deviation / np.float64(self.high))
