"""Nonconformity scores against their definitions, and what users rely on: order, finiteness, both tails."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import special, stats

from softrisk_core.diagnostics import DIAGNOSTICS, softmax
from softrisk_core.errors import CalibrationError
from softrisk_core.scores.catalogue import SCORES, find_score
from softrisk_core.scores.diagnostic import OneSided, TwoSided
from softrisk_core.scores.kl_matching import KLMatching
from softrisk_core.scores.profile import LogitProfile, profile
from softrisk_core.scores.score import LogitScore

GOLDEN = Path(__file__).parent / "golden_scores.json"

OF_LOGITS = [name for name in SCORES if find_score(name).needs in ("nothing", "logits")]

moderate_batches = arrays(
    np.float64, st.tuples(st.integers(1, 5), st.integers(2, 12)), elements=st.floats(-8, 8, width=32)
)


def clean_logits(rows: int = 600, classes: int = 6, seed: int = 0, gap: float = 6) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), generator.integers(classes, size=rows)] += generator.gamma(gap, 1, rows)
    return logits


def loaded(name: str, fitted: Mapping[str, NDArray[np.float32]]) -> LogitScore:
    score = find_score(name).load(fitted, ())
    assert isinstance(score, LogitScore)
    return score


def made(name: str, clean: NDArray[np.float64]) -> LogitScore:
    recipe = find_score(name)
    return loaded(name, {}) if recipe.fit is None else recipe.fit(clean)


@given(moderate_batches)
def test_published_scores_follow_their_definitions(logits: NDArray[np.float64]) -> None:
    found = {name: made(name, logits)(logits) for name in ("msp", "doctor", "gen")}
    for row, p in enumerate(special.softmax(logits, axis=1)):
        assert found["msp"][row] == pytest.approx(np.log((1 - p.max()) / p.max()), rel=1e-9, abs=1e-9)
        assert found["doctor"][row] == pytest.approx(np.log((1 - (p**2).sum()) / (p**2).sum()), rel=1e-6, abs=1e-9)
        assert found["gen"][row] == pytest.approx((p**0.1 * (1 - p) ** 0.1).sum(), rel=1e-9)


def test_gen_counts_the_hundred_largest_probabilities() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 300))
    largest = -np.sort(-softmax(logits), axis=1)[:, :100]
    np.testing.assert_allclose(made("gen", logits)(logits), ((largest * (1 - largest)) ** 0.1).sum(axis=1))


def test_kl_matching_is_the_divergence_from_the_nearest_mean_softmax() -> None:
    clean = clean_logits()
    p, predicted = softmax(clean), clean.argmax(axis=1)
    templates = np.array([p[predicted == label].mean(axis=0) for label in range(6)])
    new = clean_logits(50, seed=1)
    expected = [min(stats.entropy(row, template) for template in templates) for row in softmax(new)]
    np.testing.assert_allclose(KLMatching.fit(clean)(new), expected, rtol=1e-6, atol=1e-7)


def test_kl_matching_has_no_template_of_a_class_that_was_never_predicted() -> None:
    clean = clean_logits()
    clean[:, 2] = -30
    assert KLMatching.fit(clean).log_templates.shape == (5, 6)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_every_score_is_finite_for_any_logits(name: str) -> None:
    score = made(name, clean_logits())
    generator = np.random.default_rng(3)
    for scale in (1e-3, 1.0, 1e2, 1e4):
        assert np.isfinite(score(generator.normal(size=(20, 6)) * scale)).all()
    assert np.isfinite(score(np.zeros((1, 6)))).all()


@pytest.mark.parametrize("name", ["msp", "doctor", "gen"])
def test_doubt_is_stranger_and_no_two_sure_predictions_tie(name: str) -> None:
    # Up to 1 − 1e-30 or so, where a float64 probability is 1.
    logits = np.zeros((60, 5))
    logits[:, 0] = np.linspace(0, 70, 60)
    assert (np.diff(made(name, logits)(logits)) < 0).all()


@pytest.mark.parametrize("name", ["logit_gap:two-sided", "logit-profile"])
def test_too_sure_is_strange_where_both_tails_count(name: str) -> None:
    clean = clean_logits()
    score = made(name, clean)
    unsure, usual, too_sure = np.zeros((1, 6)), np.median(clean, axis=0)[None], np.zeros((1, 6))
    usual[0, 0], too_sure[0, 0] = 7, 60
    assert score(unsure) > score(usual)
    assert score(too_sure) > score(usual)
    assert score(too_sure) > np.quantile(score(clean), 0.99)
    one_sided = made("logit_gap:low", clean)
    assert one_sided(too_sure) < one_sided(clean).min()


@pytest.mark.parametrize("shape", [1.5, 2.0, 6.0])
@pytest.mark.parametrize("diagnostic", ["logit_gap", "max_logit", "energy", "dispersion"])
def test_both_tails_of_a_two_sided_score_weigh_the_same(diagnostic: str, shape: float) -> None:
    """However skewed, and where one side has a bound: a gap of 0 is as strange as one above all clean gaps."""
    clean = clean_logits(4000, gap=shape)
    score, values = TwoSided.fit(diagnostic, clean), OneSided(diagnostic, "high")(clean)
    scores = score(clean)
    strangest = scores >= np.quantile(scores, 0.98)
    assert (strangest & (values < np.median(values))).mean() == pytest.approx(0.01, abs=0.004)
    assert (strangest & (values > np.median(values))).mean() == pytest.approx(0.01, abs=0.004)


@pytest.mark.parametrize("shape", [1.5, 2.0, 6.0])
def test_a_gap_of_nothing_and_a_gap_beyond_all_are_among_the_strangest(shape: float) -> None:
    clean = clean_logits(4000, gap=shape)
    score = TwoSided.fit("logit_gap", clean)
    undecided, too_sure = np.zeros((1, 6)), np.eye(6)[:1] * 90
    for strange in (undecided, too_sure):
        assert (score(clean) >= score(strange)).mean() <= 0.002
    assert score(2 * too_sure) > score(too_sure)


def test_two_sides_need_two_sides() -> None:
    sure = np.zeros((50, 3))
    sure[:, 0] = np.linspace(10, 60, 50)
    with pytest.raises(
        CalibrationError, match=r"top2_gap has no spread on both sides of its median, 1, .*top2_gap:low"
    ):
        TwoSided.fit("top2_gap", sure)


def test_the_logit_profile_is_centred_and_scaled_on_clean_data() -> None:
    clean = clean_logits(4000)
    distances = np.square(LogitProfile.fit(clean)(clean))
    # The mean of a squared Mahalanobis distance is the number of dimensions.
    assert distances.mean() == pytest.approx(6, rel=0.02)


def test_the_logit_profile_has_a_mean_for_each_class_with_enough_rows() -> None:
    clean = clean_logits(2000)
    clean[clean.argmax(axis=1) == 1] *= 2
    clean[clean.argmax(axis=1) == 5, 5] = -9
    score = LogitProfile.fit(clean)
    assert score.means[1, 0] > 1.5 * score.means[0, 0]
    predicted = clean.argmax(axis=1)
    assert (predicted == 5).sum() == 0
    np.testing.assert_allclose(score.means[5], profile(clean).mean(axis=0), rtol=1e-6)


def test_a_step_that_varies_by_rounding_alone_is_refused() -> None:
    clean = clean_logits(300)
    clean[:, 5] = clean[:, :5].max(axis=1) + 0.3  # the first gap is 0.3 on all rows, but for its last bits
    with pytest.raises(CalibrationError, match="is the same on all clean rows"):
        LogitProfile.fit(clean)


def test_the_logit_profile_says_how_many_rows_it_needs() -> None:
    with pytest.raises(CalibrationError, match=r"needs 30 rows .* 20 are set apart"):
        LogitProfile.fit(clean_logits(20))


@given(moderate_batches)
def test_the_order_of_classes_does_not_matter_where_nothing_is_fitted(logits: NDArray[np.float64]) -> None:
    for name in ("msp", "doctor", "gen"):
        score = made(name, logits)
        assert score(logits[:, ::-1]) == pytest.approx(score(logits), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_what_was_fitted_is_kept_and_read_back(name: str) -> None:
    clean = clean_logits()
    recipe, score = find_score(name), made(name, clean)
    assert score.name == name
    assert bool(score.arrays) == (recipe.fit is not None) == (recipe.needs == "logits")
    assert all(array.dtype == np.float32 for array in score.arrays.values())
    np.testing.assert_array_equal(loaded(name, score.arrays)(clean), score(clean))


def test_every_diagnostic_is_a_score_of_each_side() -> None:
    assert {f"{name}:{side}" for name in DIAGNOSTICS for side in ("low", "high", "two-sided")} <= set(SCORES)


@pytest.mark.parametrize("name", ["logit_gap", "gap:low", "logit_gap:both", "", "logit_gap:low:high", "GEN"])
def test_any_other_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(CalibrationError, match=r"write msp, doctor, gen, .* DIAGNOSTIC one of top2_gap, logit_gap"):
        find_score(name)


@pytest.mark.parametrize("name", ["msp", "doctor", "gen", "logit_gap:low", "energy:two-sided", "logit-profile"])
@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 2, 2)])
def test_wrong_shapes_are_named(name: str, shape: tuple[int, ...]) -> None:
    score = made(name, clean_logits())
    with pytest.raises(ValueError, match="batch, classes"):
        score(np.zeros(shape))


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text())["cases"], ids=lambda case: str(case["logits"][:3]))
def test_golden_values(case: dict[str, Any]) -> None:
    """Pinned values: a change here changes what every stored calibration means."""
    for name, expected in case["scores"].items():
        fitted = {key: np.array(values, np.float32) for key, values in case["fitted"].get(name, {}).items()}
        found = loaded(name, fitted)([case["logits"]])
        rounding = 0 if name in ("msp", "doctor", "gen") else 1e-13  # the others may cancel
        assert found[0] == pytest.approx(expected, rel=1e-12, abs=rounding), name
