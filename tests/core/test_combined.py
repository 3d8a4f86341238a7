"""Fitted combinations: normal scores, the weighted sum, and the gate as a part of one score."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from softrisk_core.conformal import marginal_rank, ranks
from softrisk_core.diagnostics import diagnose
from softrisk_core.probes import PROBES, draw_noise, make_probes
from softrisk_core.scores.catalogue import find_score
from softrisk_core.scores.combined import (
    ALWAYS,
    NORMAL_SCORES,
    OUTERMOST,
    Combination,
    GatedCombination,
    fit_edges,
    terms,
)
from softrisk_core.scores.evidence import Evidence, observe
from softrisk_core.scores.features import WEIGHED, feature_names, features
from softrisk_core.scores.score import Score

Floats = NDArray[np.float64]


def images_of(rows: int, channels: int = 1, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((rows, channels, 6, 6), dtype=np.float32)


def classify(images: NDArray[np.float32]) -> Floats:
    """Logits of some linear classifier of three classes."""
    weights = np.random.default_rng(9).normal(size=(images[0].size, 3))
    return images.reshape(len(images), images[0].size).astype(np.float64) @ weights


def evidence_of(rows: int, names: tuple[str, ...] = (), channels: int = 1, seed: int = 0) -> Evidence:
    probes = make_probes(names, draw_noise((channels, 6, 6), 0)) if names else ()
    return observe(classify, images_of(rows, channels, seed), probes)


def combination(
    names: tuple[str, ...] = (), channels: int = 1, seed: int = 0, columns: int | None = None
) -> Combination:
    """Random weights, and edges of clean data."""
    values = features(evidence_of(300, names, channels))[:, :columns]
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=2 * values.shape[1]).astype(np.float32)
    probes = make_probes(names, draw_noise((channels, 6, 6), 0)) if names else ()
    return Combination(fit_edges(values), weights, np.float32(generator.normal()), probes)


def gated(low: float, high: float, names: tuple[str, ...] = PROBES) -> GatedCombination:
    return GatedCombination(combination(), combination(names), np.array([low, high], np.float32))


def kept(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """Arrays as they come back from a file."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        return dict(archive)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_feature_has_a_name(channels: int) -> None:
    evidence = evidence_of(20, PROBES, channels)
    names = feature_names(channels, make_probes(PROBES, draw_noise((channels, 6, 6), 0)))
    found = features(evidence)
    assert found.shape == (20, len(names))
    assert len(set(names)) == len(names)
    diagnostics = diagnose(evidence.logits)
    for name in WEIGHED:
        np.testing.assert_array_equal(found[:, names.index(name)], diagnostics[name])
    for row in range(20):
        label = evidence.logits[row].argmax()
        for probe, probed in zip(PROBES, evidence.probed, strict=True):
            change = probed[row] - evidence.logits[row]
            assert found[row, names.index(f"{probe}:fall")] == -change[label]
            assert found[row, names.index(f"{probe}:rise")] == np.delete(change, label).max()


@given(st.lists(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), min_size=1, max_size=40))
def test_normal_scores_rise_with_their_feature_between_bounds(rows: list[list[float]]) -> None:
    clean = np.array(rows)
    edges = fit_edges(clean)
    assert (np.diff(edges, axis=1) > 0).all()
    reach = 4 * np.abs(clean).max(axis=0) + 1
    path = np.linspace(-reach, reach, 400)
    scores, squares = np.split(terms(path, edges), 2, axis=1)
    assert (np.diff(scores, axis=0) >= 0).all()
    assert (np.abs(scores) <= OUTERMOST).all()
    np.testing.assert_array_equal(squares, scores**2)


def test_clean_data_have_normal_scores_and_the_median_none() -> None:
    clean = np.random.default_rng(0).gamma([1.5, 3, 9], size=(20_000, 3))
    edges = fit_edges(clean)
    scores = terms(clean, edges)[:, :3]
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(scores.std(axis=0), 1, atol=0.1)
    np.testing.assert_allclose(terms(np.median(clean, axis=0)[None], edges), 0, atol=1e-4)


@pytest.mark.parametrize("constant", [0.0, 1.0, -250.0])
def test_a_feature_that_never_varies_moves_nothing_by_rounding(constant: float) -> None:
    edges = fit_edges(np.full((50, 1), constant))
    rounded = np.array([[constant * (1 + 1e-7)], [constant * (1 - 1e-7)], [constant]])
    assert np.isfinite(edges).all()
    np.testing.assert_allclose(terms(rounded, edges)[:, 0], 0, atol=1e-4)
    # Far from it is as strange as anything can be.
    np.testing.assert_array_equal(np.abs(terms(np.array([[1e6], [-1e6]]), edges)[:, 0]), OUTERMOST)


def test_the_median_input_has_the_bias_as_score() -> None:
    score = combination(columns=None)
    median = score.edges[:, list(NORMAL_SCORES).index(0)].astype(np.float64)
    weighed = terms(median[None], score.edges) @ score.weights.astype(np.float64) + score.bias
    assert weighed[0] == pytest.approx(float(score.bias))


@pytest.mark.parametrize("names", [(), PROBES])
def test_no_input_exceeds_the_bound(names: tuple[str, ...]) -> None:
    score = combination(names)
    for scale in (1e-3, 1.0, 1e4):
        evidence = evidence_of(50, names, seed=4)
        wild = Evidence(evidence.logits * scale, evidence.inputs, evidence.probed * -scale)
        found = score.of(wild)
        assert found.shape == (50,)
        assert (np.abs(found) <= score.bound).all()


def test_a_combination_asks_for_its_probes_alone() -> None:
    assert combination().probes == ()
    assert [probe.name for probe in combination(("blur", "flip")).probes] == ["flip", "blur"]


@pytest.mark.parametrize("names", [("flip",), ("noise",), ("shift", "blur"), PROBES])
def test_a_probed_score_comes_back_from_its_arrays(names: tuple[str, ...]) -> None:
    score = gated(-2, 3, names)
    arrays = kept(score.arrays)
    assert ("noise" in arrays) == ("noise" in names)
    assert all(array.dtype == np.float32 for array in arrays.values())
    again = find_score("probed").load(arrays, names)
    evidence = evidence_of(100, names, seed=2)
    assert (again.name, [each.name for each in again.probes]) == ("probed", list(names))
    np.testing.assert_array_equal(again.of(evidence), score.of(evidence))
    # The same probes, noise included: the same questions to the classifier.
    same = observe(classify, evidence.inputs, again.probes)
    np.testing.assert_array_equal(same.probed, evidence.probed)


def test_a_combination_comes_back_from_its_arrays() -> None:
    score = combination()
    evidence = evidence_of(100, seed=2)
    again = find_score("combined").load(kept(score.arrays), ())
    np.testing.assert_array_equal(again.of(evidence), score.of(evidence))


def test_without_limits_everything_is_probed() -> None:
    score = GatedCombination(combination(), combination(PROBES), ALWAYS)
    evidence = evidence_of(100, PROBES, seed=2)
    np.testing.assert_array_equal(score.of(evidence), score.full.of(evidence))
    assert score.was_probed(score.of(evidence)).all()


def test_cleared_is_below_probed_is_below_convicted() -> None:
    evidence = evidence_of(300, PROBES, seed=2)
    plain = Evidence(evidence.logits, evidence.inputs, evidence.probed[:0])
    low, high = np.quantile(combination().of(plain), [0.4, 0.8])
    score = gated(low, high)
    gate, found = score.gate.of(plain), score.of(evidence)
    cleared, convicted = gate < score.limits[0], gate > score.limits[1]
    probed = ~cleared & ~convicted
    assert min(cleared.sum(), probed.sum(), convicted.sum()) > 20
    np.testing.assert_array_equal(score.was_probed(found), probed)
    np.testing.assert_array_equal(found[probed], score.full.of(evidence)[probed])
    assert found[cleared].max() < -score.full.bound <= score.full.bound < found[convicted].min()
    # Where nothing is probed, the gate's order stays.
    for part in (cleared, convicted):
        np.testing.assert_array_equal(np.argsort(found[part]), np.argsort(gate[part]))


def test_limits_are_undecided_themselves() -> None:
    evidence = evidence_of(100, PROBES, seed=2)
    gate = combination().of(Evidence(evidence.logits, evidence.inputs, evidence.probed[:0]))
    score = gated(-1, 1)
    np.testing.assert_array_equal(score.undecided(np.array([-1.0, 0.0, 1.0])), True)
    np.testing.assert_array_equal(score.undecided(np.array([-1.001, 1.001])), False)
    assert score.undecided(gate).any()


def both_ways() -> tuple[GatedCombination, Evidence, Floats]:
    """A score whose gate clears, probes and convicts some of 300 inputs, and what it says."""
    evidence = evidence_of(300, PROBES, seed=2)
    plain = Evidence(evidence.logits, evidence.inputs, evidence.probed[:0])
    score = gated(*np.quantile(combination().of(plain), [0.4, 0.8]))
    return score, evidence, score.of(evidence)


def agree(score: Score, found: Floats, evidence: Evidence) -> NDArray[np.bool_]:
    difference, allowed = score.compare(found, evidence)
    return difference <= allowed


def test_a_score_agrees_with_itself_in_float32_and_with_nothing_else() -> None:
    score, evidence, values = both_ways()
    assert agree(score, values.astype(np.float32).astype(np.float64), evidence).all()
    # The shift does not make a difference look small beside it.
    size = 1 + np.abs(np.where(score.was_probed(values), values, values - np.sign(values) * float(score.shift)))
    assert not agree(score, values + 2.5 * score.tolerance * size, evidence).any()
    assert not agree(score, np.full(300, np.nan), evidence).any()


def test_whatever_side_of_the_gate_rounding_takes_an_input_to_is_right() -> None:
    score, evidence, _ = both_ways()
    gate = score.gate.of(Evidence(evidence.logits, evidence.inputs, evidence.probed[:0]))
    shift = float(score.shift)
    for limit, side in ((0, -1), (1, 1)):
        row = np.argmin(np.abs(gate - score.limits[limit]))
        for nearby in (-1e-6, 1e-6):
            limits = score.limits.copy()
            limits[limit] = gate[row] + nearby
            close = GatedCombination(score.gate, score.full, limits)
            decided, probed = gate + side * shift, score.full.of(evidence)
            assert agree(close, decided, evidence)[row]
            assert agree(close, probed, evidence)[row]
            # But not for an input that is far from both limits, nor with the score of the other side.
            assert not agree(close, gate - side * shift, evidence)[row]
            assert agree(close, probed, evidence).sum() < agree(close, close.of(evidence), evidence).sum() == 300


RankAmong = Callable[[int, NDArray[np.int64]], int]
"""From a row and other rows, which calibrate, to its rank."""


def flagged_in_turn(rank: RankAmong, rows: int, alpha: float) -> float:
    """Share of rows that are flagged when each is compared with all others: the promise, exact and without sampling."""
    limit = marginal_rank(alpha, rows - 1)
    return float(np.mean([rank(row, np.delete(np.arange(rows), row)) <= limit for row in range(rows)]))


def rank_by(scores: Floats) -> RankAmong:
    def rank(row: int, others: NDArray[np.int64]) -> int:
        return int(ranks(scores[row : row + 1].astype(np.float32), scores[others].astype(np.float32))[0])

    return rank


@given(st.integers(0, 1000), st.floats(0, 0.9), st.sampled_from([0.05, 0.1, 0.2, 0.5]))
def test_gate_and_probes_calibrated_as_one_keep_the_promise(seed: int, cleared: float, alpha: float) -> None:
    """Each row in turn against the others: whichever way a row went, all of it is one function of the row."""
    evidence = evidence_of(39, PROBES, seed=seed)
    plain = Evidence(evidence.logits, evidence.inputs, evidence.probed[:0])
    low, high = np.quantile(combination().of(plain), [cleared, 0.95])
    scores = gated(low, high).of(evidence)
    share = flagged_in_turn(rank_by(scores), 39, alpha)
    # Ties count against a row, so that a rate below is all that they can do.
    assert share <= marginal_rank(alpha, 38) / 39 <= alpha
    if np.unique(scores.astype(np.float32)).size == 39:
        assert share == marginal_rank(alpha, 38) / 39


def test_a_second_p_value_where_the_first_is_undecided_breaks_it() -> None:
    """Two calibrations instead of one: a row gets two chances of being among the strangest."""
    # The two scores of 100 rows order them in opposite ways: what one takes for ordinary is strange to the other.
    first, second = np.arange(100.0), -np.arange(100.0)
    gate, full = rank_by(first), rank_by(second)

    def smaller(row: int, others: NDArray[np.int64]) -> int:
        return min(gate(row, others), full(row, others))

    def swapped(row: int, others: NDArray[np.int64]) -> int:
        """The second wherever the first raises no alarm."""
        found = gate(row, others)
        return found if found <= 5 else full(row, others)

    for alone in (gate, full):
        assert flagged_in_turn(alone, 100, 0.05) == 0.05
    for twice in (smaller, swapped):
        assert flagged_in_turn(twice, 100, 0.05) == 0.1
    # On one scale the same two scores keep to it.
    undecided = first < 95
    one_scale: Floats = np.where(undecided, second, 1000 + first)
    assert flagged_in_turn(rank_by(one_scale), 100, 0.05) == 0.05


@pytest.mark.parametrize("name", ["combined", "probed"])
def test_scores_that_were_fitted_to_attacks_have_no_other_fit(name: str) -> None:
    recipe = find_score(name)
    assert (recipe.needs, recipe.fit) == ("attacks", None)
    score: Score = combination() if name == "combined" else gated(-1, 1)
    assert score.name == name
