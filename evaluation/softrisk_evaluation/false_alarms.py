"""Does the flag keep its promise on clean inputs, and does its rate follow the law?

With n calibration scores, a flag at rank limit l and m clean inputs, all exchangeable, the number of false alarms
follows BetaBinomial(m, l, n + 1 − l). One calibration and one test set give one draw from it (`realised`). Random
splits of the pooled scores give as many draws as one likes (`resplit`): given the pool, they are independent and
each has exactly this law.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softrisk_core.conformal import Guarantee, confident_rank, marginal_rank, ranks
from softrisk_evaluation.report import FalseAlarms, Proportion, Resplits
from softrisk_evaluation.statistics import (
    false_alarm_bounds,
    false_alarms_above,
    false_alarms_inside,
)


def realised(test_ranks: NDArray[np.int64], n: int, alphas: Sequence[float]) -> tuple[FalseAlarms, ...]:
    """False alarms on clean test inputs, at both levels of each α that the calibration can serve.

    Args:
        test_ranks: Ranks of clean inputs, shape (m,), m ≥ 1.
        n: Number of calibration scores.
        alphas: False-alarm rates, in (0, 1).
    """
    results = []
    for alpha in alphas:
        limits: dict[Guarantee, int] = {"marginal": marginal_rank(alpha, n), "confident": confident_rank(alpha, n)}
        for guarantee, limit in limits.items():
            if limit:
                results.append(
                    FalseAlarms(
                        alpha=alpha,
                        guarantee=guarantee,
                        rank_limit=limit,
                        realised=Proportion.of(int((test_ranks <= limit).sum()), test_ranks.size),
                        law=false_alarm_bounds(limit, n, test_ranks.size),
                    )
                )
    return tuple(results)


@dataclass(frozen=True)
class Split:
    """One level over all random splits.

    Attributes:
        summary: What the report says.
        false_alarms: For each split the number of test scores flagged at the marginal level, shape (splits,).
        judged: Number of test scores.
        n: Number of calibration scores.
    """

    summary: Resplits
    false_alarms: NDArray[np.int64]
    judged: int
    n: int


def resplit(
    calibration_scores: NDArray[np.float32],
    test_scores: NDArray[np.float32],
    alphas: Sequence[float],
    *,
    splits: int,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[Split, ...]:
    """Pool calibration and test scores, split them at random as before in size, and hold the rates to the law.

    Args:
        calibration_scores: Nonconformity of the calibration rows, shape (n,).
        test_scores: Nonconformity of clean test rows by the same artifact, shape (m,), m ≥ 1.
        alphas: False-alarm rates, in (0, 1); those that n scores cannot serve are left out.
        splits: How many random splits, ≥ 1.
        seed: Of the permutations.
        advance: Called with 1 after each split.
    """
    n, judged = calibration_scores.size, test_scores.size
    served = [alpha for alpha in alphas if marginal_rank(alpha, n)]
    pool = np.concatenate([calibration_scores, test_scores])
    generator = np.random.default_rng(seed)
    marginal = np.zeros((len(served), splits), np.int64)
    confident = np.zeros((len(served), splits), np.int64)
    for split in range(splits):
        shuffled = generator.permutation(pool)
        test_ranks = ranks(shuffled[n:], shuffled[:n])
        for row, alpha in enumerate(served):
            marginal[row, split] = (test_ranks <= marginal_rank(alpha, n)).sum()
            confident[row, split] = (test_ranks <= confident_rank(alpha, n)).sum()
        advance(1)
    return tuple(
        Split(_summary(alpha, n, judged, marginal[row], confident[row]), marginal[row], judged, n)
        for row, alpha in enumerate(served)
    )


def _summary(alpha: float, n: int, judged: int, marginal: NDArray[np.int64], confident: NDArray[np.int64]) -> Resplits:
    limit, confident_limit = marginal_rank(alpha, n), confident_rank(alpha, n)
    law = false_alarm_bounds(limit, n, judged)
    rates = marginal / judged
    return Resplits(
        alpha=alpha,
        splits=marginal.size,
        marginal_rank=limit,
        law=law,
        inside=Proportion.of(int(((rates >= law.low) & (rates <= law.high)).sum()), marginal.size),
        expected_inside=false_alarms_inside(limit, n, judged),
        confident_rank=confident_limit,
        confident_above=Proportion.of(int((confident > alpha * judged + 1e-9).sum()), confident.size),
        expected_above=false_alarms_above(alpha, confident_limit, n, judged) if confident_limit else 0.0,
    )
