"""Fitted combinations, without and with probes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.probes import Noise, Probe, make_probes
from softrisk_core.scores.evidence import Evidence
from softrisk_core.scores.features import features
from softrisk_core.scores.score import Score

SHARES: Final = (0.002, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.998)
"""Of the clean values: between these quantiles a feature is taken for evenly spread."""

OUTERMOST: Final = 6.0
"""Normal scores at which a feature stops to count, beyond the outer quantiles as steep as just inside of them."""

NORMAL_SCORES: Final = np.array(
    [-OUTERMOST, *(NormalDist().inv_cdf(share) for share in SHARES), OUTERMOST], dtype=np.float32
)

ALWAYS: Final = np.array([-np.inf, np.inf], np.float32)
"""Limits of a gate that leaves every input undecided."""

_STEEPEST: Final = 100.0
"""Normal scores over what a feature is computed from: rounding that in float32 moves the score by 1e-5."""


def fit_edges(values: NDArray[np.float64], sizes: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
    """Where the features of clean data have the values `NORMAL_SCORES`.

    Args:
        values: Shape (n, M).
        sizes: Of the numbers that each feature is computed from, shape (M,); None if they are no larger than it.

    Returns:
        Shape (M, K), ascending in each row.
    """
    levels = NORMAL_SCORES.astype(np.float64)
    edges = np.quantile(values, SHARES, axis=0).T
    # Values that repeat have no spread of their own: edges are kept apart, from the median outwards.
    largest = np.abs(values).max(axis=0) if sizes is None else sizes
    closest = np.diff(levels[1:-1]) * np.maximum(largest, 1e-6)[:, None] / _STEEPEST
    middle = SHARES.index(0.5)
    for step in range(middle, len(SHARES) - 1):
        edges[:, step + 1] = np.maximum(edges[:, step + 1], edges[:, step] + closest[:, step])
    for step in range(middle, 0, -1):
        edges[:, step - 1] = np.minimum(edges[:, step - 1], edges[:, step] - closest[:, step - 1])
    low, high = edges[:, :1], edges[:, -1:]
    pace_low = (edges[:, 1:2] - low) / (levels[2] - levels[1])
    pace_high = (high - edges[:, -2:-1]) / (levels[-2] - levels[-3])
    outer = [low - pace_low * (levels[1] - levels[0]), high + pace_high * (levels[-1] - levels[-2])]
    return np.concatenate([outer[0], edges, outer[1]], axis=1).astype(np.float32)


def terms(values: NDArray[np.float64], edges: NDArray[np.float32]) -> NDArray[np.float64]:
    """What is weighed: the normal score of each feature, and its square, because both tails may be strange.

    Args:
        values: Features, shape (B, M).
        edges: Shape (M, K).

    Returns:
        Shape (B, 2 M).
    """
    levels = NORMAL_SCORES.astype(np.float64)
    scores = np.stack(
        [np.interp(column, own, levels) for column, own in zip(values.T, edges.astype(np.float64), strict=True)], axis=1
    )
    return np.concatenate([scores, np.square(scores)], axis=1)


@dataclass(frozen=True, eq=False)
class Combination(Score):
    """A weighted sum of what is strange about an input: log-odds of clean against attacked, by logistic regression.

    Attributes:
        edges: Where each feature has the values `NORMAL_SCORES`, shape (M, K).
        weights: Of the normal scores and of their squares, shape (2 M,).
        bias: The log-odds of an input whose every feature is the median of clean ones.
        asks: The probes that it weighs.
        tolerance: It weighs how far probes move logits, in units of what is usual, and that can be less than a
            hundredth of the logits whose rounding it inherits.
    """

    tolerance: ClassVar[float] = 1e-3

    edges: NDArray[np.float32]
    weights: NDArray[np.float32]
    bias: np.float32
    asks: tuple[Probe, ...] = ()

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[np.float32]], asks: tuple[Probe, ...] = ()) -> "Combination":
        """From `arrays`."""
        return cls(arrays["edges"], arrays["weights"], np.float32(arrays["bias"]), asks)

    @property
    def name(self) -> str:
        """`combined`."""
        return "combined"

    @property
    def arrays(self) -> Mapping[str, NDArray[np.float32]]:
        """`edges`, `weights` and `bias`."""
        return {"edges": self.edges, "weights": self.weights, "bias": np.asarray(self.bias)}

    @property
    def probes(self) -> tuple[Probe, ...]:
        """Those that it weighs."""
        return self.asks

    @property
    def bound(self) -> float:
        """What the score never exceeds in size."""
        linear, square = np.split(np.abs(self.weights.astype(np.float64)), 2)
        return float(abs(self.bias) + OUTERMOST * linear.sum() + OUTERMOST**2 * square.sum())

    def of(self, evidence: Evidence) -> NDArray[np.float64]:
        """Log-odds, within ± `bound`."""
        weighed: NDArray[np.float64] = terms(features(evidence), self.edges) @ self.weights.astype(np.float64)
        return weighed + float(self.bias)


@dataclass(frozen=True, eq=False)
class GatedCombination(Score):
    """A combination with probes, where one without them is undecided.

    One function on one scale, so that one calibration holds for all of it: what the gate takes for ordinary is less
    strange than everything that was probed, and what it takes for strange is stranger.

    Attributes:
        gate: The combination without probes.
        full: The one with them.
        limits: The gate's scores between which inputs are probed, both included, shape (2,).
        tolerance: That of its parts.
    """

    tolerance: ClassVar[float] = Combination.tolerance

    gate: Combination
    full: Combination
    limits: NDArray[np.float32]

    @classmethod
    def load(cls, names: tuple[str, ...], arrays: Mapping[str, NDArray[np.float32]]) -> "GatedCombination":
        """From the names of its probes and `arrays`."""
        probes = make_probes(names, arrays["noise"] if Noise.name in names else np.empty(0, np.float32))

        def part(prefix: str) -> dict[str, NDArray[np.float32]]:
            return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}

        return cls(Combination.load(part("gate:")), Combination.load(part("full:"), probes), arrays["limits"])

    @property
    def name(self) -> str:
        """`probed`."""
        return "probed"

    @property
    def arrays(self) -> Mapping[str, NDArray[np.float32]]:
        """Those of both combinations, prefixed with `gate:` and `full:`, the `limits`, and the `noise` if it probes."""
        gate = {f"gate:{key}": array for key, array in self.gate.arrays.items()}
        full = {f"full:{key}": array for key, array in self.full.arrays.items()}
        noise = [probe.values for probe in self.probes if isinstance(probe, Noise)]
        return {**gate, **full, "limits": self.limits, **dict(zip(["noise"], noise, strict=False))}

    @property
    def probes(self) -> tuple[Probe, ...]:
        """Those of the full combination."""
        return self.full.probes

    @property
    def shift(self) -> np.float32:
        """By how much what the gate decides is moved away from what is probed: further than both scores reach."""
        return np.float32(np.ceil(2 * (self.gate.bound + self.full.bound)))

    @property
    def decides(self) -> bool:
        """Whether the gate decides about any input."""
        return bool(np.isfinite(self.limits).any())

    def undecided(self, gate: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which inputs are probed, by the scores of the gate, shape (B,)."""
        between: NDArray[np.bool_] = (gate >= self.limits[0]) & (gate <= self.limits[1])
        return between

    def was_probed(self, scores: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which inputs were probed, by their scores, shape (B,)."""
        probed: NDArray[np.bool_] = np.abs(scores) < float(self.shift) / 2
        return probed

    def of(self, evidence: Evidence) -> NDArray[np.float64]:
        """Log-odds where inputs are probed; those of the gate, moved by ± `shift`, where they are not."""
        gate = self._gate_scores(evidence)
        moved = gate + np.where(gate < self.limits[0], -1, 1) * float(self.shift)
        return np.where(self.undecided(gate), self.full.of(evidence), moved)

    def compare(
        self, found: NDArray[np.floating], evidence: Evidence
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How far scores by another implementation are from these, and how far they may be.

        The shift of what the gate decides does not count towards a score's size, or it would excuse what it is made to
        exceed. Where rounding can take the gate's score across a limit, the scores of both sides are right.
        """
        values, gate = found.astype(np.float64), self._gate_scores(evidence)
        side = np.where(self.was_probed(values), 0, np.sign(values))
        low, high = (float(limit) for limit in self.limits)
        leeway = self.tolerance * (1 + np.abs(gate))
        may_be = np.select(
            [side < 0, side > 0],
            [gate - leeway < low, gate + leeway > high],
            (gate + leeway >= low) & (gate - leeway <= high),
        )
        expected = np.where(side == 0, self.full.of(evidence), gate)
        apart = np.where(may_be, values - side * float(self.shift) - expected, values - self.of(evidence))
        rounding = np.where(side == 0, 0, np.spacing(self.shift))
        return np.abs(apart), self.tolerance * (1 + np.abs(expected)) + rounding

    def _gate_scores(self, evidence: Evidence) -> NDArray[np.float64]:
        return self.gate.of(replace(evidence, probed=evidence.probed[:0]))
