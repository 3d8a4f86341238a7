"""How far an input may be changed before its label changes, from Lipschitz constants of logit differences.

Let L[m, y, k] be a Lipschitz constant, in the ℓ2 norm, of h_y − h_k as a function of input m alone. A change δ of all
inputs lets the difference fall by at most Σ_m L[m, y, k] ‖δ_m‖ ≤ √(Σ_m L[m, y, k]²) · ‖δ‖ (Cauchy and Schwarz), so the
label ŷ stays while

    ‖δ‖ < min over k ≠ ŷ of (z_ŷ − z_k) / √(Σ_m L[m, ŷ, k]²).

This is the bound of Yang et al., "Quantifying and Enhancing Multi-modal Robustness with Modality Preference" (arXiv
2402.06244), with the minimum over all other classes, of which theirs takes the runner-up alone. It is as true as the
constants are: a certificate where they are proved, an estimate where they are the largest slopes that were seen.

It is about the **label**. The flag compares a score with its calibration, and can differ within the radius.

The bound is one of exact arithmetic, and logits that are computed are off by up to ρ, those of the answer as well as
those of the changed input. So 4 ρ is taken off each difference of logits where a radius is to be a certificate.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

LARGEST: Final = float(np.finfo(np.float32).max)
"""In place of infinity, where nothing that is changed can change the label."""


def radius(logits: ArrayLike, lipschitz: ArrayLike, rounding: float = 0.0) -> NDArray[np.float64]:
    """The radius within which no change of some inputs, all at once, changes the label.

    Args:
        logits: Shape (B, C), C ≥ 2, finite.
        lipschitz: Shape (M, C, C), ≥ 0, for the M ≥ 1 inputs that may be changed; or (C, C) for a single one. The
            diagonals are not read.
        rounding: ρ ≥ 0, how far a logit that is computed can be from the exact one.

    Returns:
        Shape (B,), in [0, `LARGEST`], in the ℓ2 norm of what is changed; 0 where two logits are the largest.

    Raises:
        ValueError: If the shapes do not fit, or a constant is negative or not finite.
    """
    z = np.asarray(logits, np.float64)
    constants = np.asarray(lipschitz, np.float64)
    constants = constants[None] if constants.ndim == 2 else constants
    if z.ndim != 2 or z.shape[1] < 2 or constants.ndim != 3 or constants.shape != (len(constants), *2 * z.shape[1:]):
        raise ValueError(f"logits of shape {z.shape} and constants of shape {np.shape(lipschitz)} do not fit")
    if not len(constants) or not np.isfinite(constants).all() or (constants < 0).any():
        raise ValueError("Lipschitz constants are finite and not negative, and there is an input at least")
    labels = z.argmax(axis=1)
    gaps = z.max(axis=1, keepdims=True) - z - 4 * rounding
    slopes = np.sqrt(np.square(constants).sum(axis=0))[labels]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        distances = np.where(gaps > 0, gaps / slopes, 0.0)
    distances[np.arange(len(z)), labels] = np.inf
    nearest: NDArray[np.float64] = np.minimum(distances.min(axis=1), LARGEST)
    return nearest
