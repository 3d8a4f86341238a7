"""Realised false alarms and the law on random splits."""

import numpy as np
import pytest
from numpy.typing import NDArray

from softrisk_core.conformal import marginal_rank, ranks
from softrisk_evaluation.false_alarms import Split, realised, resplit


def resplit_scores(calibration: NDArray[np.float32], test: NDArray[np.float32], seed: int = 3) -> tuple[Split, ...]:
    return resplit(calibration, test, (0.01, 0.05), splits=200, seed=seed, advance=lambda _: None)


@pytest.fixture
def scores() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    generator = np.random.default_rng(11)
    return generator.normal(size=400).astype(np.float32), generator.normal(size=600).astype(np.float32)


def test_realised_rates_count_ranks(scores: tuple[NDArray[np.float32], NDArray[np.float32]]) -> None:
    calibration, test = scores
    test_ranks = ranks(test, calibration)
    results = {(row.alpha, row.guarantee): row for row in realised(test_ranks, 400, [0.01, 0.05])}
    assert set(results) == {(0.01, "marginal"), (0.01, "confident"), (0.05, "marginal"), (0.05, "confident")}
    marginal = results[0.05, "marginal"]
    assert marginal.rank_limit == marginal_rank(0.05, 400)
    assert marginal.realised.successes == (test_ranks / 401 <= 0.05).sum()
    assert marginal.realised.trials == 600
    assert results[0.05, "confident"].rank_limit < marginal.rank_limit


def test_levels_that_the_calibration_cannot_serve_are_left_out() -> None:
    results = realised(np.array([1, 50, 151]), 150, [0.001, 0.01, 0.05])
    assert {(row.alpha, row.guarantee) for row in results} == {
        (0.01, "marginal"), (0.05, "marginal"), (0.05, "confident"),
    }  # fmt: skip


def test_random_splits_follow_the_law(scores: tuple[NDArray[np.float32], NDArray[np.float32]]) -> None:
    for split in resplit_scores(*scores):
        summary = split.summary
        assert summary.splits == 200
        assert summary.inside.rate == pytest.approx(summary.expected_inside, abs=0.05)
        assert summary.confident_above.rate == pytest.approx(summary.expected_above, abs=0.06)
        rates = split.false_alarms / 600
        assert summary.inside.successes == ((rates >= summary.law.low) & (rates <= summary.law.high)).sum()


def test_random_splits_are_those_of_the_seed(scores: tuple[NDArray[np.float32], NDArray[np.float32]]) -> None:
    first, again, other = (resplit_scores(*scores, seed=seed)[1].false_alarms for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


def test_the_calibration_that_is_not_exchangeable_shows_in_its_own_rate_only() -> None:
    generator = np.random.default_rng(5)
    calibration = generator.normal(size=400).astype(np.float32)
    shifted = generator.normal(1.0, size=600).astype(np.float32)
    own = realised(ranks(shifted, calibration), 400, [0.05])[0]
    assert own.realised.rate > own.law.high
    # Pooled and split at random, the same scores are exchangeable again.
    pooled = resplit_scores(calibration, shifted)[1].summary
    assert pooled.inside.rate == pytest.approx(pooled.expected_inside, abs=0.05)


def test_ties_make_alarms_rarer() -> None:
    tied = np.zeros(400, np.float32)
    for split in resplit_scores(tied, np.zeros(600, np.float32)):
        assert split.false_alarms.sum() == 0
