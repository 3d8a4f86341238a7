"""What scores may look at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.probes import Probe


@dataclass(frozen=True)
class Evidence:
    """What is known about B inputs.

    Attributes:
        logits: Shape (B, C).
        inputs: As the model receives them, shape (B, …).
        probed: Logits of the same inputs under each of P probes, shape (P, B, C); P is 0 for a score without probes.
        features: What the last layer makes the logits from, shape (B, D); None unless they were asked for.
    """

    logits: NDArray[np.float64]
    inputs: NDArray[np.float32]
    probed: NDArray[np.float64]
    features: NDArray[np.float64] | None = None

    def at(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "Evidence":
        """About some of the inputs."""
        features = None if self.features is None else self.features[rows]
        return Evidence(self.logits[rows], self.inputs[rows], self.probed[:, rows], features)


def observe(
    logits: Callable[[NDArray[np.float32]], ArrayLike],
    inputs: NDArray[np.float32],
    probes: Sequence[Probe],
    features: Callable[[NDArray[np.float32]], ArrayLike] | None = None,
) -> Evidence:
    """Ask a classifier about inputs as they are, and under each probe.

    Args:
        logits: Inputs (B, …) → logits (B, C).
        inputs: Shape (B, …).
        probes: What is done to them.
        features: Inputs (B, …) → features (B, D), for a score that reads them (`FeatureScore`).
    """
    plain = np.asarray(logits(inputs), np.float64)
    probed: list[Any] = [np.asarray(logits(probe(inputs)), np.float64) for probe in probes]
    own = None if features is None else np.asarray(features(inputs), np.float64)
    return Evidence(plain, inputs, np.array(probed).reshape(len(probes), *plain.shape), own)
