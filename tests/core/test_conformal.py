"""Ranks and levels: exact integers, and the guarantee that they stand for."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from softrisk_core.conformal import (
    CONFIDENCE,
    Guarantee,
    calibration_size_for,
    check_alpha,
    confident_rank,
    marginal_rank,
    p_value,
    rank_limit,
    ranks,
    smallest_alpha,
)
from softrisk_core.errors import CalibrationError

scores_with_ties = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=60)
alphas = st.floats(0.001, 0.5)
sizes = st.integers(1, 20_000)


@given(scores_with_ties, scores_with_ties)
def test_rank_counts_calibration_scores_at_least_as_strange(scores: list[float], calibration: list[float]) -> None:
    expected = [1 + sum(c >= s for c in calibration) for s in scores]
    assert ranks(scores, calibration).tolist() == expected


def test_a_score_that_is_not_a_number_is_the_strangest() -> None:
    assert ranks([math.nan, math.inf, -math.inf], [1.0, 2.0, 3.0]).tolist() == [1, 1, 4]


@given(scores_with_ties)
def test_exchangeable_scores_have_valid_p_values(pool: list[float]) -> None:
    """Each of n + 1 scores in turn against the other n: at most a share α has p ≤ α, for every α, ties or not."""
    n = len(pool) - 1
    if n == 0:
        return
    found = [int(ranks([s], pool[:i] + pool[i + 1 :])[0]) for i, s in enumerate(pool)]
    for rank in range(1, n + 2):
        assert sum(r <= rank for r in found) / (n + 1) <= p_value(rank, n) + 1e-12


@given(alphas, sizes)
def test_marginal_rank_is_the_largest_with_p_at_most_alpha(alpha: float, n: int) -> None:
    limit = marginal_rank(alpha, n)
    assert limit / (n + 1) <= alpha + 1e-12
    assert (limit + 1) / (n + 1) > alpha


@pytest.mark.parametrize(("alpha", "n", "expected"), [(0.05, 99, 5), (0.1, 29, 3), (0.01, 9999, 100), (0.07, 99, 7)])
def test_products_that_are_integers_are_not_lost_to_rounding(alpha: float, n: int, expected: int) -> None:
    assert marginal_rank(alpha, n) == expected


@given(alphas, st.integers(1, 3000))
def test_confident_rank_follows_the_beta_law(alpha: float, n: int) -> None:
    limit = confident_rank(alpha, n)
    assert 0 <= limit <= marginal_rank(alpha, n)
    if limit:
        assert stats.beta.cdf(alpha, limit, n + 1 - limit) >= CONFIDENCE - 1e-9
    assert stats.beta.cdf(alpha, limit + 1, n - limit) < CONFIDENCE + 1e-9 or limit + 1 > n


@pytest.mark.parametrize(
    ("n", "one_percent", "five_percent"),
    [(500, 2, 17), (1000, 5, 39), (2000, 13, 84), (5000, 39, 225), (10_000, 84, 464), (200_000, 1927, 9840)],
)
def test_confident_ranks_of_common_sizes(n: int, one_percent: int, five_percent: int) -> None:
    assert confident_rank(0.01, n) == one_percent
    assert confident_rank(0.05, n) == five_percent


@given(alphas)
def test_calibration_size_is_the_least_that_works(alpha: float) -> None:
    for guarantee in ("marginal", "confident"):
        n = calibration_size_for(alpha, guarantee)
        assert rank_limit(alpha, n, guarantee) >= 1
        if n > 1:
            with pytest.raises(CalibrationError, match=str(n)):
                rank_limit(alpha, n - 1, guarantee)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, math.nan])
def test_alpha_must_be_a_rate(alpha: float) -> None:
    with pytest.raises(CalibrationError, match="between 0 and 1"):
        check_alpha(alpha, 100)


def test_an_alpha_that_could_never_flag_is_refused_with_the_size_it_needs() -> None:
    check_alpha(smallest_alpha(99), 99)
    with pytest.raises(CalibrationError, match="at least 999"):
        check_alpha(0.001, 99)
    with pytest.raises(CalibrationError, match=r"95% confidence.*at least 299"):
        rank_limit(0.01, 200, "confident")


@pytest.mark.parametrize("alpha", [1e-12, 1e-310, 5e-324])
@pytest.mark.parametrize("guarantee", ["marginal", "confident"])
def test_the_smallest_alphas_are_refused_like_others(alpha: float, guarantee: Guarantee) -> None:
    with pytest.raises(CalibrationError, match="at least a billion"):
        rank_limit(alpha, 1000, guarantee)


@pytest.mark.parametrize("guarantee", ["marginal", "confident"])
def test_realised_false_alarm_rates_keep_the_promise(guarantee: Guarantee) -> None:
    """1,000 calibration sets of continuous scores, where the realised rate is known exactly."""
    n, alpha = 500, 0.05
    rng = np.random.default_rng(0)
    limit = rank_limit(alpha, n, guarantee)
    # Flagged ⇔ score above the limit-th largest calibration score; uniform scores make that rate exact.
    rates = 1 - np.sort(rng.random((1000, n)), axis=1)[:, n - limit]
    if guarantee == "marginal":
        assert rates.mean() == pytest.approx(limit / (n + 1), abs=0.002)
    else:
        assert 0.93 <= (rates <= alpha).mean() <= 0.975
