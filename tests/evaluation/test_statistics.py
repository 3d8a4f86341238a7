"""The arithmetic behind a report."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta
from sklearn.metrics import roc_curve

from softrisk_core.conformal import confident_rank, marginal_rank
from softrisk_evaluation import statistics

# Few distinct values, so that ties are common.
scores = st.lists(st.integers(0, 8), min_size=1, max_size=40).map(lambda values: np.array(values, np.float64))
sizes = st.integers(20, 3000)


@given(st.integers(1, 500).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_clopper_pearson_inverts_the_beta_quantiles(counts: tuple[int, int]) -> None:
    successes, trials = counts
    low, high = statistics.clopper_pearson(successes, trials)
    assert low == pytest.approx(beta.ppf(0.025, successes, trials - successes + 1) if successes else 0, abs=1e-9)
    assert high == pytest.approx(
        beta.ppf(0.975, successes + 1, trials - successes) if successes < trials else 1, abs=1e-9
    )
    assert 0 <= low <= successes / trials <= high <= 1


def test_clopper_pearson_of_a_published_example() -> None:
    # No event in 10 trials: 1 − 0.025^(1/10).
    assert statistics.clopper_pearson(0, 10) == pytest.approx((0, 0.30850), abs=1e-5)


@pytest.mark.parametrize("seed_spread", [0.0, 0.05])
def test_the_crossed_bootstrap_covers_the_mean_over_seeds_and_images(seed_spread: float) -> None:
    generator = np.random.default_rng(1)
    inside = []
    for _ in range(30):
        by_seed = generator.normal(0.1, seed_spread, size=(8, 1))
        by_image = generator.normal(0, 0.3, size=(1, 100))
        low, high = statistics.crossed_bootstrap(by_seed + by_image + generator.normal(0, 0.3, size=(8, 100)))
        inside.append(low <= 0.1 <= high)
    # An interval that takes the 800 figures for independent covers the mean in 60 to 72 % of such tables.
    assert np.mean(inside) > 0.9


def test_the_crossed_bootstrap_of_a_constant_is_that_constant() -> None:
    assert statistics.crossed_bootstrap(np.full((1, 30), 0.25)) == pytest.approx((0.25, 0.25))


@given(clean=scores, attacked=scores)
def test_auroc_counts_pairs_with_ties_as_one_half(clean: NDArray[np.float64], attacked: NDArray[np.float64]) -> None:
    above = (attacked[:, None] > clean).mean() + (attacked[:, None] == clean).mean() / 2
    assert statistics.auroc(clean, attacked) == pytest.approx(above)


def test_auroc_of_nothing_is_unknown() -> None:
    assert statistics.auroc([1.0, 2.0], []) is None
    assert statistics.auroc([], [1.0]) is None


@given(clean=scores, attacked=scores, false_alarms=st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.5, 0.99]))
def test_the_threshold_is_the_best_point_of_the_roc_within_the_false_alarm_rate(
    clean: NDArray[np.float64], attacked: NDArray[np.float64], false_alarms: float
) -> None:
    threshold = statistics.threshold_at(clean, false_alarms)
    assert (clean > threshold).mean() <= false_alarms + 1e-9
    is_attacked = np.repeat([0, 1], [clean.size, attacked.size])
    false_rates, true_rates, _ = roc_curve(is_attacked, np.concatenate([clean, attacked]), drop_intermediate=False)
    best = true_rates[false_rates <= false_alarms + 1e-9].max()
    assert (attacked > threshold).mean() == pytest.approx(best)


@given(n=sizes, judged=sizes, alpha=st.sampled_from([0.05, 0.1, 0.3]))
def test_the_law_holds_95_percent_between_its_bounds(n: int, judged: int, alpha: float) -> None:
    limit = marginal_rank(alpha, n)
    law = statistics.FalseAlarmLaw.of([statistics.GroupAlarms(limit, n, judged)])
    low, high = law.bounds
    inside = law.masses[round(low * judged) : round(high * judged) + 1].sum()
    assert inside == pytest.approx(law.inside, abs=1e-6)
    assert inside >= 0.95 - 1e-9
    assert law.masses.sum() == pytest.approx(1, abs=1e-6)
    # Its mean is the rate that the rank limit stands for.
    assert (law.masses * np.arange(judged + 1)).sum() / judged == pytest.approx(limit / (n + 1), abs=1e-6)


def test_the_law_agrees_with_simulation() -> None:
    generator = np.random.default_rng(0)
    n, judged, limit = 99, 200, 5
    # The limit-th largest of n uniform scores leaves a share Beta(limit, n + 1 − limit) above it.
    counts = generator.binomial(judged, generator.beta(limit, n + 1 - limit, 40_000))
    law = statistics.FalseAlarmLaw.of([statistics.GroupAlarms(limit, n, judged)])
    low, high = law.bounds
    inside = ((counts >= low * judged) & (counts <= high * judged)).mean()
    assert inside == pytest.approx(law.inside, abs=0.01)
    above = (counts > 0.05 * judged).mean()
    assert above == pytest.approx(law.above(0.05), abs=0.01)


def test_the_law_of_several_groups_agrees_with_simulation() -> None:
    generator = np.random.default_rng(0)
    groups = [(5, 99, 120), (20, 399, 80)]
    draws = [generator.binomial(m, generator.beta(limit, n + 1 - limit, 40_000)) for limit, n, m in groups]
    counts = np.sum(draws, axis=0)
    # And a third that is too small to flag.
    law = statistics.FalseAlarmLaw.of(statistics.GroupAlarms(*group) for group in [*groups, (0, 15, 30)])
    assert law.judged == 230
    assert law.masses.sum() == pytest.approx(1)
    low, high = law.bounds
    assert ((counts >= low * 230) & (counts <= high * 230)).mean() == pytest.approx(law.inside, abs=0.01)
    assert (counts > 0.05 * 230).mean() == pytest.approx(law.above(0.05), abs=0.01)


def test_the_confident_level_exceeds_alpha_in_5_percent_of_calibrations_in_the_long_run() -> None:
    n, alpha = 1000, 0.05
    limit = confident_rank(alpha, n)
    long_run, short_run = (
        statistics.FalseAlarmLaw.of([statistics.GroupAlarms(limit, n, judged)]).above(alpha) for judged in (10**6, 200)
    )
    assert 0.02 < long_run <= 0.0505
    assert short_run > long_run
