"""One diagnostic as a score: one side of it is strange, or both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.diagnostics import diagnose
from softrisk_core.errors import CalibrationError
from softrisk_core.scores.score import LogitScore

Side = Literal["low", "high"]

LEVELS: Final = (0.0, 0.001, 0.005, 0.01, *(step / 50 for step in range(1, 50)), 0.99, 0.995, 0.999, 1.0)
"""Between these quantiles of the clean values their distribution function is taken for straight."""

_COARSE: Final = (0.05, 0.5, 0.95)
_STEEPEST: Final = 300.0
"""Rise of the distribution function over the largest value: rounding a value in float32 then moves it by 2e-5."""


@dataclass(frozen=True)
class OneSided(LogitScore):
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


@dataclass(frozen=True, eq=False)
class TwoSided(LogitScore):
    """How far in either tail of its clean values a diagnostic d lies: |F(d) − ½|.

    F is the distribution function of clean values, straight between quantiles. So both tails weigh the same, however
    skewed the values are and also where one side has a bound; beyond the clean values the distance from them counts,
    in units of their range. A strong attack makes a classifier surer than clean inputs do (Ozbulak et al., arXiv
    1907.12744), which no score of one side sees.

    Attributes:
        diagnostic: Its name.
        edges: Quantiles, ascending, shape (K,).
        levels: F there, from 0 to 1, shape (K,).
    """

    diagnostic: str
    edges: NDArray[np.float32]
    levels: NDArray[np.float32]

    @classmethod
    def fit(cls, diagnostic: str, logits: ArrayLike) -> "TwoSided":
        """From the logits of clean data.

        Raises:
            CalibrationError: If the diagnostic has no spread on one of the sides that float32 could resolve.
        """
        values = diagnose(logits)[diagnostic]
        steepest = _STEEPEST / max(float(np.abs(values).max()), float(np.finfo(np.float32).tiny))

        def resolved(width: float, rise: float) -> bool:
            return width > 0 and rise / width <= steepest

        low, center, high = np.quantile(values, _COARSE)
        if not (resolved(center - low, 0.45) and resolved(high - center, 0.45)):
            raise CalibrationError(
                f"{diagnostic} has no spread on both sides of its median, {center:g}, on clean data, so that a "
                f"two-sided score of it cannot be told; score another diagnostic, or one side: {diagnostic}:low"
            )
        kept: list[tuple[float, float]] = []
        for edge, level in zip(np.quantile(values, LEVELS), LEVELS, strict=True):
            while kept and level == 1 and not resolved(edge - kept[-1][0], level - kept[-1][1]):
                kept.pop()
            if not kept or resolved(edge - kept[-1][0], level - kept[-1][1]):
                kept.append((float(edge), level))
        edges, levels = np.array(kept, np.float32).T
        return cls(diagnostic, edges.copy(), levels.copy())

    @classmethod
    def load(cls, diagnostic: str, arrays: Mapping[str, NDArray[np.float32]]) -> "TwoSided":
        """From `arrays`."""
        return cls(diagnostic, arrays["edges"], arrays["levels"])

    @property
    def name(self) -> str:
        """`logit_gap:two-sided`."""
        return f"{self.diagnostic}:two-sided"

    @property
    def arrays(self) -> Mapping[str, NDArray[np.float32]]:
        """`edges` and `levels`."""
        return {"edges": self.edges, "levels": self.levels}

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """≥ 0; above ½ beyond the clean values."""
        values = diagnose(logits)[self.diagnostic]
        edges = self.edges.astype(np.float64)
        below = np.interp(values, edges, self.levels.astype(np.float64))
        outside = values - np.clip(values, edges[0], edges[-1])
        distance: NDArray[np.float64] = np.abs(below - 0.5) + np.abs(outside) / (edges[-1] - edges[0])
        return distance
