"""Does the flag keep its promise on clean inputs, and does its rate follow the law?

With n calibration scores, a flag at rank limit l and m clean inputs, all exchangeable, the number of false alarms
follows BetaBinomial(m, l, n + 1 − l), and in several calibration groups the sum of one for each. One calibration and
one test set give one draw from it (`realised`). Random splits of the pooled scores give as many draws as one likes
(`resplit`): given the pool, they are independent and each has exactly this law.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.conformal import Guarantee, confident_rank, marginal_rank, ranks
from softrisk_core.groups import Grouping
from softrisk_evaluation.artifact import Answers
from softrisk_evaluation.levels import flagged
from softrisk_evaluation.report import FalseAlarms, Proportion, Resplits
from softrisk_evaluation.statistics import FalseAlarmLaw, GroupAlarms

_LARGEST_RANK: Final[dict[Guarantee, Callable[[float, int], int]]] = {
    "marginal": marginal_rank,
    "confident": confident_rank,
}


def realised(clean: Answers, grouping: Grouping, alphas: Sequence[float]) -> tuple[FalseAlarms, ...]:
    """False alarms on clean test inputs, at both levels of each α that the calibration can serve.

    Args:
        clean: Answers about the inputs, at least one.
        grouping: Of the calibration.
        alphas: False-alarm rates, in (0, 1).
    """
    results = []
    for alpha in alphas:
        for guarantee, largest_rank in _LARGEST_RANK.items():
            found = flagged(clean, grouping, alpha, guarantee)
            if found is not None:
                limits = [largest_rank(alpha, n) for n in grouping.sizes]
                results.append(
                    FalseAlarms(
                        alpha=alpha,
                        guarantee=guarantee,
                        rank_limit=limits[0] if grouping.is_marginal else None,
                        realised=Proportion.where(found),
                        law=_law(limits, grouping, _judged(clean, grouping)).bounds,
                    )
                )
    return tuple(results)


@dataclass(frozen=True)
class Split:
    """One level over all random splits.

    Attributes:
        summary: What the report says.
        false_alarms: For each split the number of test scores flagged at the marginal level, shape (splits,).
        law: What they should follow.
    """

    summary: Resplits
    false_alarms: NDArray[np.int64]
    law: FalseAlarmLaw


def resplit(
    calibration_scores: NDArray[np.float32],
    grouping: Grouping,
    clean: Answers,
    alphas: Sequence[float],
    *,
    splits: int,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[Split, ...]:
    """Pool calibration and test scores, split them at random as before in size, and hold the rates to the law.

    Each group by itself, where there are several.

    Args:
        calibration_scores: Nonconformity of the calibration rows as the bundle keeps it, shape (n,).
        grouping: Of the calibration.
        clean: Answers of the same artifact about m ≥ 1 clean test rows.
        alphas: False-alarm rates, in (0, 1); those that the calibration cannot serve are left out.
        splits: How many random splits, ≥ 1.
        seed: Of the permutations.
        advance: Called with 1 after each split.
    """
    served = [alpha for alpha in alphas if all(marginal_rank(alpha, n) for n in grouping.sizes)]
    groups = grouping.groups(clean.label)
    pools = [
        np.concatenate([scores, clean.nonconformity[groups == group]])
        for group, scores in enumerate(grouping.split(calibration_scores))
    ]
    generator = np.random.default_rng(seed)
    alarms = {guarantee: np.zeros((len(served), splits), np.int64) for guarantee in _LARGEST_RANK}
    for split in range(splits):
        for n, pool in zip(grouping.sizes, pools, strict=True):
            shuffled = generator.permutation(pool)
            test_ranks = ranks(shuffled[n:], shuffled[:n])
            for row, alpha in enumerate(served):
                for guarantee, largest_rank in _LARGEST_RANK.items():
                    alarms[guarantee][row, split] += (test_ranks <= largest_rank(alpha, n)).sum()
        advance(1)
    judged = _judged(clean, grouping)
    return tuple(
        _split(alpha, grouping, judged, alarms["marginal"][row], alarms["confident"][row])
        for row, alpha in enumerate(served)
    )


def _judged(clean: Answers, grouping: Grouping) -> list[int]:
    """Number of inputs in each group."""
    counts: list[int] = np.bincount(grouping.groups(clean.label), minlength=len(grouping.sizes)).tolist()
    return counts


def _law(limits: Sequence[int], grouping: Grouping, judged: Sequence[int]) -> FalseAlarmLaw:
    return FalseAlarmLaw.of(map(GroupAlarms, limits, grouping.sizes, judged))


def _split(
    alpha: float, grouping: Grouping, judged: Sequence[int], marginal: NDArray[np.int64], confident: NDArray[np.int64]
) -> Split:
    limits = [marginal_rank(alpha, n) for n in grouping.sizes]
    confident_limits = [confident_rank(alpha, n) for n in grouping.sizes]
    law = _law(limits, grouping, judged)
    rates = marginal / law.judged
    summary = Resplits(
        alpha=alpha,
        splits=marginal.size,
        marginal_rank=limits[0] if grouping.is_marginal else None,
        law=law.bounds,
        inside=Proportion.where((rates >= law.bounds.low) & (rates <= law.bounds.high)),
        expected_inside=law.inside,
        confident_rank=confident_limits[0] if grouping.is_marginal else None,
        confident_above=Proportion.where(confident > alpha * law.judged + 1e-9),
        expected_above=_law(confident_limits, grouping, judged).above(alpha),
    )
    return Split(summary, marginal, law)
