"""Realised false alarms and the law on random splits."""

import numpy as np
import pytest
from numpy.typing import NDArray

from softrisk_core.conformal import confident_rank, marginal_rank, ranks
from softrisk_core.groups import Grouping
from softrisk_evaluation.artifact import Answers
from softrisk_evaluation.false_alarms import Split, realised, resplit

MARGINAL = Grouping.marginal(400, 2)


def answers(scores: NDArray[np.float32], ranks: NDArray[np.int64], labels: NDArray[np.int64] | None = None) -> Answers:
    label = np.arange(len(ranks)) % 2 if labels is None else labels
    profile = np.full((len(ranks), 2), 0.5, np.float32)
    return Answers(label=label, rank=ranks, nonconformity=scores, diagnostics={}, runner_up=1 - label, profile=profile)


def resplit_scores(calibration: NDArray[np.float32], test: NDArray[np.float32], seed: int = 3) -> tuple[Split, ...]:
    clean = answers(test, ranks(test, calibration))
    return resplit(calibration, MARGINAL, clean, (0.01, 0.05), splits=200, seed=seed, advance=lambda _: None)


@pytest.fixture
def scores() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    generator = np.random.default_rng(11)
    return generator.normal(size=400).astype(np.float32), generator.normal(size=600).astype(np.float32)


def test_realised_rates_count_ranks(scores: tuple[NDArray[np.float32], NDArray[np.float32]]) -> None:
    calibration, test = scores
    test_ranks = ranks(test, calibration)
    results = {(row.alpha, row.guarantee): row for row in realised(answers(test, test_ranks), MARGINAL, [0.01, 0.05])}
    assert set(results) == {(0.01, "marginal"), (0.01, "confident"), (0.05, "marginal"), (0.05, "confident")}
    marginal = results[0.05, "marginal"]
    assert marginal.rank_limit == marginal_rank(0.05, 400)
    assert marginal.realised.successes == (test_ranks / 401 <= 0.05).sum()
    assert marginal.realised.trials == 600
    assert results[0.05, "confident"].rank_limit == confident_rank(0.05, 400)


def test_levels_that_the_calibration_cannot_serve_are_left_out() -> None:
    results = realised(
        answers(np.zeros(3, np.float32), np.array([1, 50, 151])), Grouping.marginal(150, 2), [0.001, 0.01, 0.05]
    )
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
    own = realised(answers(shifted, ranks(shifted, calibration)), MARGINAL, [0.05])[0]
    assert own.realised.rate > own.law.high
    # Pooled and split at random, the same scores are exchangeable again.
    pooled = resplit_scores(calibration, shifted)[1].summary
    assert pooled.inside.rate == pytest.approx(pooled.expected_inside, abs=0.05)


def test_ties_make_alarms_rarer() -> None:
    tied = np.zeros(400, np.float32)
    for split in resplit_scores(tied, np.zeros(600, np.float32)):
        assert split.false_alarms.sum() == 0


@pytest.fixture
def grouped() -> tuple[Grouping, NDArray[np.float32], Answers]:
    """Two groups of other sizes and other scores: what is strange in one is usual in the other."""
    generator = np.random.default_rng(12)
    grouping = Grouping((0, 1), (400, 150))
    calibration = np.concatenate([np.sort(generator.normal(5 * group, 1, n)) for group, n in enumerate(grouping.sizes)])
    labels = generator.integers(0, 2, 600)
    scores = generator.normal(5 * labels).astype(np.float32)
    calibration = calibration.astype(np.float32)
    return grouping, calibration, answers(scores, grouping.ranks(scores, labels, calibration), labels)


def test_each_group_is_judged_by_its_own_limit(grouped: tuple[Grouping, NDArray[np.float32], Answers]) -> None:
    grouping, _, clean = grouped
    results = {(row.alpha, row.guarantee): row for row in realised(clean, grouping, [0.005, 0.01, 0.05])}
    # 150 rows serve neither 0.005 nor, with confidence, 0.01.
    assert set(results) == {(0.01, "marginal"), (0.05, "marginal"), (0.05, "confident")}
    marginal = results[0.05, "marginal"]
    assert marginal.rank_limit is None
    assert marginal.realised.successes == (clean.rank <= np.where(clean.label == 0, 20, 7)).sum()
    assert marginal.law.low <= marginal.realised.rate <= marginal.law.high


def test_random_splits_within_groups_follow_the_law(grouped: tuple[Grouping, NDArray[np.float32], Answers]) -> None:
    grouping, calibration, clean = grouped
    splits = resplit(calibration, grouping, clean, (0.005, 0.05), splits=200, seed=3, advance=lambda _: None)
    (summary,) = (split.summary for split in splits)
    assert (summary.alpha, summary.marginal_rank, summary.confident_rank) == (0.05, None, None)
    assert summary.inside.rate == pytest.approx(summary.expected_inside, abs=0.05)
    assert summary.confident_above.rate == pytest.approx(summary.expected_above, abs=0.06)
