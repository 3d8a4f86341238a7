"""The shape of softmax outputs: how large the largest logit is, how far the next is behind, and what comes after."""

from dataclasses import dataclass, fields
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.diagnostics import diagnose, softmax

LENGTH: Final = 10
"""Largest softmax probabilities that a profile holds; all of them where there are fewer classes."""

BANDS: Final = (0.05, 0.5, 0.95)
"""Quantiles over inputs between which a profile is drawn."""

CLEAN: Final = "clean"
STANDING: Final = "attacked, still right"
TURNED: Final = "successful attacks"
"""Right without an attack and wrong under it."""


class Largest(NamedTuple):
    """The most likely classes.

    Attributes:
        label: Shape (N,), int64.
        runner_up: Shape (N,), int64.
        profile: The largest probabilities in descending order, shape (N, K), K ≤ `LENGTH`, float32.
    """

    label: NDArray[np.int64]
    runner_up: NDArray[np.int64]
    profile: NDArray[np.float32]


def largest(logits: ArrayLike) -> Largest:
    """The most likely classes of N inputs.

    Args:
        logits: Shape (N, C), C ≥ 2, finite.
    """
    probabilities = softmax(logits)
    order = np.argsort(-np.asarray(logits), axis=1, kind="stable")[:, :LENGTH]
    profile = np.take_along_axis(probabilities, order, axis=1).astype(np.float32)
    return Largest(order[:, 0], order[:, 1], profile)


@dataclass(frozen=True)
class Shape:
    """What pictures of the logits of N inputs are drawn from.

    Attributes:
        max_logit: Shape (N,).
        logit_gap: Shape (N,).
        label: Most likely class, shape (N,).
        runner_up: Second most likely class, shape (N,).
        profile: From `largest`, shape (N, K).
    """

    max_logit: NDArray[np.floating]
    logit_gap: NDArray[np.floating]
    label: NDArray[np.int64]
    runner_up: NDArray[np.int64]
    profile: NDArray[np.float32]

    @classmethod
    def of(cls, logits: ArrayLike) -> "Shape":
        """From logits, shape (N, C)."""
        diagnostics = diagnose(logits)
        return cls(diagnostics["max_logit"], diagnostics["logit_gap"], *largest(logits))

    def select(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Shape":
        """Of some of the inputs."""
        return Shape(*(getattr(self, field.name)[chosen] for field in fields(self)))


def bands(profile: NDArray[np.float32]) -> NDArray[np.float64]:
    """`BANDS` of each place of a profile over N ≥ 1 inputs, shape (3, K)."""
    quantiles: NDArray[np.float64] = np.quantile(profile, BANDS, axis=0)
    return quantiles


def transitions(first: NDArray[np.int64], second: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Where inputs of each class go.

    Args:
        first: A class for each input, shape (N,).
        second: Another one, shape (N,).
        classes: How many there are, C.

    Returns:
        Shape (C, C): of the inputs whose first class is i the share whose second one is j; a row of zeros where there
        are none.
    """
    counts = np.bincount(first * classes + second, minlength=classes**2).reshape(classes, classes)
    shares: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares
