"""Scores of penultimate features against their definitions, and what users rely on."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from softrisk_core.errors import CalibrationError
from softrisk_core.score_facts import Nonconformity
from softrisk_core.scores.catalogue import find_score
from softrisk_core.scores.evidence import Evidence, observe
from softrisk_core.scores.knn import KNN, NEAREST, ROWS
from softrisk_core.scores.mahalanobis import Mahalanobis
from softrisk_core.scores.score import FeatureScore

GOLDEN = Path(__file__).parent / "golden_feature_scores.json"

NAMES = ("mahalanobis", "knn")


def clean(rows: int = 400, size: int = 12, classes: int = 4, seed: int = 0) -> Evidence:
    """Features in one cluster for each predicted class, as a ReLU leaves them."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=rows)
    centers = 3 * np.random.default_rng(99).normal(size=(classes, size))
    features = np.maximum(centers[labels] + generator.normal(size=(rows, size)), 0)
    return Evidence(np.eye(classes)[labels], np.zeros((rows, 1), np.float32), np.empty((0, rows, classes)), features)


def features_of(evidence: Evidence) -> NDArray[np.float64]:
    assert evidence.features is not None
    return evidence.features


def made(name: str, evidence: Evidence) -> FeatureScore:
    score = find_score(name).made_from(evidence)
    assert isinstance(score, FeatureScore)
    return score


@pytest.mark.parametrize("size", [12, 900])
def test_mahalanobis_is_the_distance_from_the_nearest_class_mean_by_a_shrunk_covariance(size: int) -> None:
    evidence, new = clean(size=size), features_of(clean(50, size=size, seed=1))
    features, predicted = features_of(evidence), evidence.logits.argmax(axis=1)
    means = np.array([features[predicted == label].mean(axis=0) for label in range(4)])
    covariance, _ = ledoit_wolf(features - means[predicted], assume_centered=True)
    deviations = new[:, None] - means
    squares = np.einsum("nci,ij,ncj->nc", deviations, np.linalg.inv(covariance), deviations)
    np.testing.assert_allclose(Mahalanobis.fit(evidence)(new), np.sqrt(squares.min(axis=1)), rtol=1e-3)


def test_knn_is_the_distance_of_directions() -> None:
    evidence, new = clean(), features_of(clean(50, seed=1))
    directions, rows = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (new, features_of(evidence)))
    distances = np.sort(np.linalg.norm(directions[:, None] - rows, axis=2), axis=1)[:, NEAREST - 1]
    score = KNN.fit(evidence)
    np.testing.assert_allclose(score(new), distances, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(score(7 * new), score(new), rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_between_the_classes_is_strange(name: str) -> None:
    evidence = clean(size=60)
    score, features = made(name, evidence), features_of(evidence)
    labels = evidence.logits.argmax(axis=1)
    between = (features[labels == 0][:20] + features[labels == 1][:20]) / 2
    assert (score(between) > np.quantile(score.of(clean(size=60, seed=1)), 0.9)).mean() > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_every_score_is_finite(name: str) -> None:
    evidence = clean()
    score = made(name, evidence)
    for scale in (0.0, 1e-20, 1.0, 1e8):
        assert np.isfinite(score(scale * features_of(evidence))).all()


@pytest.mark.parametrize("name", NAMES)
def test_features_that_never_vary_are_harmless(name: str) -> None:
    evidence = clean()
    features_of(evidence)[:, :3] = (0, 0, 5)
    assert np.isfinite(made(name, evidence)(features_of(evidence) + 1)).all()


def test_few_rows_are_enough_for_many_features() -> None:
    score = Mahalanobis.fit(clean(rows=60, size=300))
    within, others = score.of(clean(rows=60, size=300, seed=1)), score(np.zeros((1, 300)))
    assert others > within.max()


def test_a_class_that_was_never_predicted_has_no_mean() -> None:
    evidence = clean()
    evidence.logits[:, 2] = -1
    assert Mahalanobis.fit(evidence).means.shape == (4 - 1, 12)


def test_knn_keeps_rows_from_all_over_the_data_and_not_too_many() -> None:
    score = KNN.fit(clean(rows=5 * ROWS))
    assert score.rows.shape == (ROWS, 12)
    assert len(np.unique(score.rows.round(6), axis=0)) == ROWS


def test_too_few_rows_are_refused_with_their_number() -> None:
    with pytest.raises(CalibrationError, match=r"knn needs 10 rows, and 9 are set apart"):
        KNN.fit(clean(rows=9))
    with pytest.raises(CalibrationError, match=r"mahalanobis needs 8 rows .* of 4 predicted classes, and 7 are"):
        Mahalanobis.fit(clean(rows=7))


def test_features_that_are_all_the_same_are_refused() -> None:
    evidence = clean()
    features_of(evidence)[:] = 1
    with pytest.raises(CalibrationError, match="the same on all clean rows"):
        Mahalanobis.fit(evidence)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_fitted_is_kept_and_read_back(name: str) -> None:
    evidence = clean()
    score = made(name, evidence)
    assert score.name == name
    assert all(array.dtype == np.float32 for array in score.arrays.values())
    np.testing.assert_array_equal(find_score(name).load(score.arrays, ()).of(evidence), score.of(evidence))


def test_features_are_observed_only_where_they_are_asked_for() -> None:
    inputs = np.ones((3, 2), np.float32)
    assert observe(lambda x: x, inputs, ()).features is None
    evidence = observe(lambda x: x, inputs, (), lambda x: 2 * x)
    np.testing.assert_array_equal(features_of(evidence.at(np.array([0, 2]))), np.full((2, 2), 2.0))
    with pytest.raises(ValueError, match="knn reads features, and the evidence has none"):
        KNN.fit(clean()).of(observe(lambda x: x, inputs, ()))


def test_the_manifest_names_the_tensor_of_a_score_of_features_in_format_3() -> None:
    facts = Nonconformity(score="knn", features="relu_4")
    assert facts.model_dump() == {"score": "knn", "features": "relu_4"}
    assert facts.format_version == 3
    assert str(facts) == "knn of relu_4"
    for wrong in ({"score": "knn"}, {"score": "msp", "features": "relu_4"}):
        with pytest.raises(ValueError, match="scores of features name their tensor"):
            Nonconformity.model_validate(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_golden_values(name: str) -> None:
    """Pinned values: a change here changes what every stored calibration means."""
    golden = json.loads(GOLDEN.read_text())
    arrays = {key: np.array(values, np.float32) for key, values in golden["fitted"][name].items()}
    score = find_score(name).load(arrays, ())
    assert isinstance(score, FeatureScore)
    np.testing.assert_allclose(score(np.array(golden["features"])), golden["scores"][name], rtol=1e-12)
