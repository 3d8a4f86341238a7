"""Softmax diagnostics from logits: the float64 reference for every other implementation of them.

With logits z of shape (B, C), predicted class ŷ = argmax z and N = the classes other than ŷ. Everything is
computed from logits in log space, relative to the largest or second largest logit, so that a prediction at
1 − 1e-12 still has a meaningful spread and logits of ±1e4 neither overflow nor cancel.

The graph in `model.onnx` computes the same in float32.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

DIAGNOSTICS: Final = (
    "top2_gap",
    "logit_gap",
    "dispersion",
    "softmax_dispersion",
    "complement_entropy",
    "max_logit",
    "energy",
    "entropy",
)
"""Names of the diagnostics, in the order in which graph, answers and documents list them."""


def _checked(logits: ArrayLike) -> NDArray[np.float64]:
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2 or z.shape[1] < 2:
        raise ValueError(f"logits must have shape (batch, classes) with at least 2 classes, got {z.shape}")
    return z


def softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Softmax probabilities.

    Args:
        logits: Shape (B, C).

    Returns:
        Shape (B, C), each row in [0, 1] and summing to 1.
    """
    z = _checked(logits)
    exp = np.exp(z - z.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = exp / exp.sum(axis=1, keepdims=True)
    return probabilities


def diagnose(logits: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """All diagnostics of a batch.

    Args:
        logits: Shape (B, C), C ≥ 2, finite.

    Returns:
        One array of shape (B,) for each name in `DIAGNOSTICS`:

        - `top2_gap`: p₍₁₎ − p₍₂₎, in [0, 1].
        - `logit_gap`: z₍₁₎ − z₍₂₎, ≥ 0.
        - `dispersion`: √(mean over N of (z_j − mean_N z)²), ≥ 0: the spread that DRSL's `logit` form
          penalises, with ŷ in place of the label. 0 for C = 2.
        - `softmax_dispersion`: √(Σ over N of (p_j − mean_N p)²), ≥ 0: the distance of the non-top softmax
          from its average, as the paper writes it (arXiv 2303.12363). 0 for C = 2.
        - `complement_entropy`: entropy of the softmax renormalised over N, divided by log(C − 1), in [0, 1]:
          the non-ME score of Pang et al. (NeurIPS 2018), normalised. 1 for C = 2.
        - `max_logit`: z₍₁₎.
        - `energy`: logsumexp z (Liu et al., NeurIPS 2020, with the sign of the logits).
        - `entropy`: of the softmax, in nats, in [0, log C].

    Raises:
        ValueError: If the shape is not (B, C) with C ≥ 2.
    """
    z = _checked(logits)
    batch, classes = z.shape
    rows = np.arange(batch)
    top = z.argmax(axis=1)
    first = z[rows, top]

    others = np.ones_like(z, dtype=np.bool_)
    others[rows, top] = False
    rest = z[others].reshape(batch, classes - 1)
    second = rest.max(axis=1)
    gap = first - second

    below = rest - second[:, None]
    exp_below = np.exp(below)
    sum_below = exp_below.sum(axis=1)
    # p_j = exp(z_j − z₍₂₎) · share for j in N, and p₍₁₎ = exp(gap) · share, without forming either large number.
    log_partition = np.log1p(np.exp(-gap) * sum_below)
    share = np.exp(-gap - log_partition)

    complement_entropy = np.ones(batch)
    if classes > 2:
        entropy_nats = np.log(sum_below) - (exp_below * below).sum(axis=1) / sum_below
        complement_entropy = np.clip(entropy_nats / np.log(classes - 1), 0.0, 1.0)

    spread = exp_below - exp_below.mean(axis=1, keepdims=True)
    shifted = z - first[:, None]
    return {
        "top2_gap": -np.expm1(-gap) * np.exp(-log_partition),
        "logit_gap": gap,
        "dispersion": np.sqrt(np.square(below - below.mean(axis=1, keepdims=True)).mean(axis=1)),
        "softmax_dispersion": share * np.sqrt(np.square(spread).sum(axis=1)),
        "complement_entropy": complement_entropy,
        "max_logit": first,
        "energy": first + log_partition,
        "entropy": np.maximum(log_partition - (np.exp(shifted) * shifted).sum(axis=1) * np.exp(-log_partition), 0.0),
    }
