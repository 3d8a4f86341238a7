"""From a rank to a flag and a decision.

Ranks come from the graph; here they are only compared, as integers, with the largest rank that a false-alarm rate
allows for the row's predicted label (`softrisk_core.groups`).
"""

from dataclasses import dataclass
from functools import lru_cache
from operator import gt
from typing import Final, Literal, Self

from softrisk_core.conformal import smallest_alpha
from softrisk_core.errors import CalibrationError
from softrisk_core.groups import Grouping

Decision = Literal["accept", "review", "reject"]

_REJECT_SHARE: Final = 0.1
"""Default α_reject as a share of α_review."""

limits_at = lru_cache(maxsize=1024)(Grouping.rank_limits)
"""`Grouping.rank_limits`, remembered: clients ask for the same few α again and again."""


@dataclass(frozen=True)
class Policy:
    """The operator's two levels for one calibration; does not depend on what a request asks for.

    Attributes:
        grouping: Whose ranks are compared.
        sizes: For each label the number n of calibration scores that it is ranked among.
        alpha_review: False-alarm rate of `review`, also the α of requests that name none.
        alpha_reject: False-alarm rate of `reject`, ≤ alpha_review.
        review_ranks: For each label the largest rank that is not accepted.
        reject_ranks: For each label the largest rank that is rejected.
    """

    grouping: Grouping
    sizes: tuple[int, ...]
    alpha_review: float
    alpha_reject: float
    review_ranks: tuple[int, ...]
    reject_ranks: tuple[int, ...]

    @classmethod
    def of(
        cls, grouping: Grouping, default_alpha: float, alpha_review: float | None, alpha_reject: float | None
    ) -> Self:
        """The policy for a calibration.

        Args:
            grouping: Of the calibration.
            default_alpha: The bundle's α, used if `alpha_review` is None.
            alpha_review: As set by the operator.
            alpha_reject: As set by the operator; None for a tenth of α_review, but at least 1/(n + 1) of the smallest
                group.

        Raises:
            CalibrationError: If the calibration is too small for a level, with the n that it would need, or if
                α_reject exceeds α_review.
        """
        review = default_alpha if alpha_review is None else alpha_review
        least = smallest_alpha(min(grouping.sizes))
        reject = max(review * _REJECT_SHARE, least) if alpha_reject is None else alpha_reject
        review_ranks, reject_ranks = grouping.rank_limits(review), grouping.rank_limits(reject)
        if any(map(gt, reject_ranks, review_ranks)):
            raise CalibrationError(f"alpha_reject = {reject} must not exceed alpha_review = {review}")
        return cls(grouping, grouping.size_of_key, review, reject, review_ranks, reject_ranks)

    def decide(self, rank: int, label: int) -> Decision:
        """The decision for a conformal rank of an input with a predicted label."""
        if rank > self.review_ranks[label]:
            return "accept"
        return "reject" if rank <= self.reject_ranks[label] else "review"


def risk_score(rank: int, n: int) -> float:
    """1 − p-value, in [0, 1): from integers, so that it carries no rounding of a difference."""
    return (n + 1 - rank) / (n + 1)


def risk_decile(rank: int, n: int) -> int:
    """Tenth of the range of risk scores, from 0 to 9; of integers, so that no rounding moves its limits."""
    return 10 * (n + 1 - rank) // (n + 1)


def risk_header(ranks: list[int], labels: list[int], limits: tuple[int, ...], sizes: tuple[int, ...]) -> str:
    """Value of `X-Adversarial-Risk`: the largest risk score and the number of flags of an answer.

    Args:
        ranks: Conformal ranks, at least one.
        labels: Predicted labels of the same rows.
        limits: For each label the largest flagged rank.
        sizes: For each label the number of calibration scores.
    """
    if len(ranks) == 1:
        rank, label = ranks[0], labels[0]
        return _risk_header(rank, int(rank <= limits[label]), sizes[label])
    risks = [(risk_score(rank, sizes[label]), rank, sizes[label]) for rank, label in zip(ranks, labels, strict=True)]
    _, rank, n = max(risks)
    return _risk_header(rank, sum(flags(ranks, labels, limits)), n)


def flags(ranks: list[int], labels: list[int], limits: tuple[int, ...]) -> list[bool]:
    """Which rows are flagged.

    Args:
        ranks: Their conformal ranks.
        labels: Their predicted labels.
        limits: For each label the largest flagged rank.
    """
    return [rank <= limits[label] for rank, label in zip(ranks, labels, strict=True)]


@lru_cache(maxsize=4096)
def _risk_header(rank: int, flagged: int, n: int) -> str:
    return f"max={risk_score(rank, n):.6g}; flagged={flagged}"
