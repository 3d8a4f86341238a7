"""Logits in descending order, and relative to the second."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def descending(logits: ArrayLike, largest: int | None = None) -> NDArray[np.float64]:
    """Each row sorted, the largest first.

    Args:
        logits: Shape (B, C), C ≥ 2.
        largest: How many of each row; None for all.

    Returns:
        Shape (B, C), or (B, min(C, largest)).

    Raises:
        ValueError: If the shape is not (B, C) with C ≥ 2.
    """
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2 or z.shape[1] < 2:
        raise ValueError(f"logits must have shape (batch, classes) with at least 2 classes, got {z.shape}")
    return -np.sort(-z, axis=1)[:, :largest]


def gap_and_below(logits: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sorted logits relative to the second largest, from which all sums over a softmax can be made without cancelling.

    Args:
        logits: Shape (B, C), C ≥ 2.

    Returns:
        z₍₁₎ − z₍₂₎ ≥ 0, shape (B, 1), and z₍ₖ₎ − z₍₂₎ ≤ 0 for k = 2 … C, shape (B, C − 1).
    """
    z = descending(logits)
    return z[:, :1] - z[:, 1:2], z[:, 1:] - z[:, 1:2]
