"""Conformal ranks, p-values and flag levels, as integers.

A nonconformity score s is larger for stranger inputs. Against n scores of held-out clean data,

    rank = 1 + #{calibration scores ≥ s},    p-value = rank / (n + 1).

If the new input is exchangeable with the calibration data then P(p-value ≤ α) ≤ α; that is the promise, and the
only one (Vovk et al., *Algorithmic Learning in a Random World*; Bates et al., arXiv 2104.08279). A flag compares
integers, because float32 0.05 is greater than 0.05: flagged ⇔ rank ≤ largest rank allowed at α.

Two largest ranks exist for each α:

- `marginal_rank`: false alarms ≤ α on average over calibration sets.
- `confident_rank`: false alarms ≤ α with 95 % confidence over the draw of the calibration set. With rank l as the
  limit, the realised false-alarm rate of a calibration set follows Beta(l, n + 1 − l).
"""

import math
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.errors import CalibrationError

CONFIDENCE: Final = 0.95
"""Confidence of the stricter level over the draw of the calibration set."""

Guarantee = Literal["marginal", "confident"]

_ROUNDING: Final = 1e-9
"""Allowance for α(n + 1) being an integer in exact arithmetic but just below one in float64."""


def ranks(scores: ArrayLike, calibration_scores: ArrayLike) -> NDArray[np.int64]:
    """Conformal ranks of scores among calibration scores, ties counted against the new input.

    Args:
        scores: Shape (B,), larger is stranger. A NaN is stranger than everything: rank 1.
        calibration_scores: Shape (n,), in any order, n ≥ 1.

    Returns:
        Shape (B,), each in 1 … n + 1.
    """
    ordered = np.sort(np.asarray(calibration_scores))
    return (1 + ordered.size - np.searchsorted(ordered, np.asarray(scores), side="left")).astype(np.int64)


def p_value(rank: int, n: int) -> float:
    """p-value of a rank among n calibration scores, in (0, 1]."""
    return rank / (n + 1)


def smallest_alpha(n: int) -> float:
    """The smallest false-alarm rate at which n calibration scores can flag anything."""
    return 1 / (n + 1)


def check_alpha(alpha: float, n: int) -> None:
    """Refuse a false-alarm rate that n calibration scores cannot serve.

    Raises:
        CalibrationError: If α is not in [1/(n+1), 1), with the n that it would need.
    """
    if not 0 < alpha < 1:
        raise CalibrationError(f"alpha must lie strictly between 0 and 1, got {alpha}")
    if marginal_rank(alpha, n) < 1:
        raise CalibrationError(
            f"alpha = {alpha} can never flag with {n} calibration scores: it needs at least "
            f"{_shown_size(alpha, 'marginal')}, and {n} allow alpha ≥ {smallest_alpha(n):.3g}"
        )


def calibration_size_for(alpha: float, guarantee: Guarantee = "marginal") -> int:
    """The least number of calibration scores with which α can flag anything.

    Args:
        alpha: False-alarm rate, in (0, 1).
        guarantee: `marginal` needs 1/α − 1, `confident` log(0.05)/log(1 − α).
    """
    if guarantee == "marginal":
        return math.ceil(1 / alpha - 1 - _ROUNDING)
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-alpha))


def _shown_size(alpha: float, guarantee: Guarantee) -> str:
    # The reciprocal of the smallest floats is infinite, and nobody has that many rows.
    return str(calibration_size_for(alpha, guarantee)) if alpha > 1e-9 else "a billion"


def marginal_rank(alpha: float, n: int) -> int:
    """Largest rank flagged at α: ⌊α(n + 1)⌋; 0 if nothing can be flagged."""
    return math.floor(alpha * (n + 1) + _ROUNDING)


@lru_cache(maxsize=4096)
def confident_rank(alpha: float, n: int) -> int:
    """Largest rank whose realised false-alarm rate is ≤ α with 95 % confidence; 0 if there is none.

    The rate of rank l is Beta(l, n + 1 − l), and P(Beta(l, n + 1 − l) ≤ α) = P(Binomial(n, α) ≥ l); so l is the
    largest with P(Binomial(n, α) ≤ l − 1) ≤ 0.05.

    Args:
        alpha: False-alarm rate, in (0, 1).
        n: Number of calibration scores.
    """
    successes = np.arange(min(marginal_rank(alpha, n), n) + 1)
    # log P(K = k) from log P(K = k − 1); l never exceeds α(n + 1), so the upper tail is not needed.
    steps = np.log(n - successes[1:] + 1) - np.log(successes[1:]) + math.log(alpha) - math.log1p(-alpha)
    log_mass = n * math.log1p(-alpha) + np.concatenate([[0.0], np.cumsum(steps)])
    cumulative = np.cumsum(np.exp(log_mass))
    return int(np.searchsorted(cumulative, 1 - CONFIDENCE, side="right"))


def rank_limit(alpha: float, n: int, guarantee: Guarantee = "marginal") -> int:
    """Largest rank that is flagged at α under a guarantee: flagged ⇔ rank ≤ rank_limit.

    Raises:
        CalibrationError: If α is out of range, or the calibration is too small for it; with the n it would need.
    """
    check_alpha(alpha, n)
    if guarantee == "marginal":
        return marginal_rank(alpha, n)
    limit = confident_rank(alpha, n)
    if limit < 1:
        raise CalibrationError(
            f"alpha = {alpha} with {CONFIDENCE:.0%} confidence can never flag with {n} calibration scores: it needs "
            f"at least {_shown_size(alpha, 'confident')}"
        )
    return limit
