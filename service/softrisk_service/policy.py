"""From a rank to a flag and a decision.

Ranks come from the graph; here they are only compared, as integers, with the largest rank that a false-alarm rate
allows (`softrisk_core.conformal`).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, Self

from softrisk_core.conformal import rank_limit, smallest_alpha
from softrisk_core.errors import CalibrationError

Decision = Literal["accept", "review", "reject"]

_REJECT_SHARE: Final = 0.1
"""Default α_reject as a share of α_review."""

limit_at = lru_cache(maxsize=1024)(rank_limit)
"""`softrisk_core.conformal.rank_limit`, remembered: clients ask for the same few α again and again."""


@dataclass(frozen=True)
class Policy:
    """The operator's two levels for one calibration; does not depend on what a request asks for.

    Attributes:
        n: Number of calibration scores.
        alpha_review: False-alarm rate of `review`, also the α of requests that name none.
        alpha_reject: False-alarm rate of `reject`, ≤ alpha_review.
        review_rank: Largest rank that is not accepted.
        reject_rank: Largest rank that is rejected.
    """

    n: int
    alpha_review: float
    alpha_reject: float
    review_rank: int
    reject_rank: int

    @classmethod
    def of(cls, n: int, default_alpha: float, alpha_review: float | None, alpha_reject: float | None) -> Self:
        """The policy for a calibration.

        Args:
            n: Number of calibration scores.
            default_alpha: The bundle's α, used if `alpha_review` is None.
            alpha_review: As set by the operator.
            alpha_reject: As set by the operator; None for a tenth of α_review, but at least 1/(n + 1).

        Raises:
            CalibrationError: If the calibration is too small for a level, with the n that it would need, or if
                α_reject exceeds α_review.
        """
        review = default_alpha if alpha_review is None else alpha_review
        reject = max(review * _REJECT_SHARE, smallest_alpha(n)) if alpha_reject is None else alpha_reject
        if rank_limit(reject, n) > rank_limit(review, n):
            raise CalibrationError(f"alpha_reject = {reject} must not exceed alpha_review = {review}")
        return cls(n, review, reject, rank_limit(review, n), rank_limit(reject, n))

    def decide(self, rank: int) -> Decision:
        """The decision for a conformal rank."""
        if rank > self.review_rank:
            return "accept"
        return "reject" if rank <= self.reject_rank else "review"


def risk_score(rank: int, n: int) -> float:
    """1 − p-value, in [0, 1): from integers, so that it carries no rounding of a difference."""
    return (n + 1 - rank) / (n + 1)


def risk_decile(rank: int, n: int) -> int:
    """Tenth of the range of risk scores, from 0 to 9; of integers, so that no rounding moves its limits."""
    return 10 * (n + 1 - rank) // (n + 1)


def risk_header(ranks: list[int], limit: int, n: int) -> str:
    """Value of `X-Adversarial-Risk`: the largest risk score and the number of flags of an answer.

    Args:
        ranks: Conformal ranks, at least one.
        limit: Largest flagged rank.
        n: Number of calibration scores.
    """
    if len(ranks) == 1:
        return _risk_header(ranks[0], int(ranks[0] <= limit), n)
    return _risk_header(min(ranks), sum(rank <= limit for rank in ranks), n)


@lru_cache(maxsize=4096)
def _risk_header(rank: int, flagged: int, n: int) -> str:
    return f"max={risk_score(rank, n):.6g}; flagged={flagged}"
