import numpy as np
import pytest
from numpy.typing import NDArray

from softrisk_core.bundle import CalibrationArrays
from softrisk_core.conformal import confident_rank, marginal_rank
from softrisk_core.diagnostics import DIAGNOSTICS, diagnose
from softrisk_core.errors import CalibrationError
from softrisk_core.groups import Grouping
from softrisk_core.scores.catalogue import find_score
from softrisk_core.scores.evidence import Evidence
from softrisk_export.calibrate import LEVELS, calibration_arrays, calibration_facts
from softrisk_export.runtime import Outputs

LOW_GAP = "logit_gap:low"
NONE = np.empty(0, np.uint64)
MARGINAL = Grouping.marginal(60, 5)


def outputs_of(logits: NDArray[np.float32], score: str = LOW_GAP) -> Outputs:
    evidence = Evidence(logits.astype(np.float64), logits, np.empty((0, *logits.shape)))
    values = {**diagnose(logits), "nonconformity": find_score(score).load({}, ()).of(evidence)}
    floats = {name: each.astype(np.float32) for name, each in values.items()}
    return {"logits": logits, "label": logits.argmax(axis=1), **floats}


def clean(n: int, classes: int = 5, score: str = LOW_GAP) -> Outputs:
    return outputs_of(np.random.default_rng(n).normal(size=(n, classes)).astype(np.float32), score)


def arrays_of(
    outputs: Outputs,
    score: str = LOW_GAP,
    grouping: Grouping = MARGINAL,
    *,
    rows: NDArray[np.uint64] | None = None,
    fit_rows: NDArray[np.uint64] = NONE,
    seen_rows: NDArray[np.uint64] = NONE,
) -> CalibrationArrays:
    digests = np.arange(len(outputs["label"]), dtype=np.uint64) if rows is None else rows
    return calibration_arrays(
        outputs, score, grouping, outputs["label"], rows=digests, fit_rows=fit_rows, seen_rows=seen_rows
    )


def calibrated(n: int) -> CalibrationArrays:
    return arrays_of(clean(n), grouping=Grouping.marginal(n, 5))


def test_scores_are_ascending_and_histograms_hold_every_row() -> None:
    arrays = calibrated(100)
    np.testing.assert_array_equal(arrays.scores, np.sort(-clean(100)["logit_gap"].astype(np.float32)))
    assert {name: counts.sum() for name, (_, counts) in arrays.histograms.items()} == dict.fromkeys(DIAGNOSTICS, 100)


def test_quantiles_can_be_read_off_the_histogram_of_a_skewed_diagnostic() -> None:
    # Of a classifier that is sure of nearly all inputs: 5 % of its top-2 gaps lie far below the others.
    logits = np.random.default_rng(0).normal(size=(2001, 10)).astype(np.float32)
    logits[:, 3] += np.random.default_rng(1).gamma(4, 5, 2001).astype(np.float32)
    outputs = outputs_of(logits)
    arrays = arrays_of(outputs, grouping=Grouping.marginal(2001, 10))
    for name, (edges, counts) in arrays.histograms.items():
        values = outputs[name].astype(np.float64)
        assert (np.diff(edges) > 0).all()
        assert (edges[0], edges[-1], counts.sum()) == (values.min(), values.max(), 2001)
        cumulative = np.concatenate([[0], np.cumsum(counts)]) / 2001
        levels = np.array([0.01, 0.05, 0.5, 0.95, 0.99])
        read = np.interp(levels, cumulative, edges)
        assert (np.quantile(values, levels - 0.003) <= read + 1e-6).all(), name
        assert (read - 1e-6 <= np.quantile(values, levels + 0.003)).all(), name


def test_the_histogram_of_a_constant_is_one_bin() -> None:
    # Two classes leave a single one beside the label.
    arrays = arrays_of(clean(60, classes=2), grouping=Grouping.marginal(60, 2))
    edges, counts = arrays.histograms["dispersion"]
    assert (edges.tolist(), counts.tolist()) == ([0, 0], [60])


def test_facts_list_every_level_that_the_calibration_serves() -> None:
    facts = calibration_facts(calibrated(250), Grouping.marginal(250, 5), 0.02, "some data")
    assert [level.alpha for level in facts.levels] == [0.005, 0.01, 0.02, 0.05, 0.1]
    assert all(level.marginal_rank == marginal_rank(level.alpha, 250) for level in facts.levels)
    assert all(level.confident_rank == confident_rank(level.alpha, 250) for level in facts.levels)


def test_rows_seen_in_training_are_counted_and_refused() -> None:
    with pytest.raises(CalibrationError, match=r"^13 of the 60 calibration rows were used to train"):
        arrays_of(clean(60), seen_rows=np.arange(47, 200, dtype=np.uint64))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_counted_and_refused(value: float) -> None:
    outputs = clean(60)
    outputs["logits"] = outputs["logits"].copy()
    outputs["logits"][7:10, 1] = value
    with pytest.raises(CalibrationError, match="the logits of 3 of the 60 calibration rows are not finite"):
        arrays_of(outputs)


@pytest.mark.parametrize("diagnostic", ["dispersion", "softmax_dispersion", "complement_entropy"])
def test_a_diagnostic_that_says_nothing_is_refused(diagnostic: str) -> None:
    # Two classes leave a single one beside the label.
    score = f"{diagnostic}:low"
    with pytest.raises(CalibrationError, match=f"{diagnostic}:low has the same value, .* on all 60 calibration rows"):
        arrays_of(clean(60, classes=2, score=score), score, Grouping.marginal(60, 2))


def test_rows_of_one_content_are_refused_as_such() -> None:
    same = outputs_of(np.repeat(np.arange(5, dtype=np.float32)[None], 60, axis=0))
    with pytest.raises(CalibrationError, match="all 60 calibration rows have the same content"):
        arrays_of(same, rows=np.zeros(60, np.uint64))


def test_rows_of_a_fit_must_be_new_to_the_model_as_well() -> None:
    rows = np.arange(60, dtype=np.uint64)
    with pytest.raises(CalibrationError, match=r"^5 of the 80 calibration rows were used to train"):
        arrays_of(clean(60), fit_rows=np.arange(60, 80, dtype=np.uint64), seen_rows=rows + np.uint64(75))


def test_groups_keep_their_scores_apart_and_have_levels_of_their_own() -> None:
    outputs = clean(250)
    first = int((outputs["label"] == 0).sum())
    grouping = Grouping((0, 1, 1, 1, 1), (first, 250 - first))
    arrays = arrays_of(outputs, grouping=grouping)
    for group, scores in enumerate(grouping.split(arrays.scores)):
        mine = grouping.groups(outputs["label"]) == group
        np.testing.assert_array_equal(scores, np.sort(outputs["nonconformity"][mine]))
    facts = calibration_facts(arrays, grouping, 0.05, "some data")
    assert (facts.n, facts.levels, facts.format_version) == (250, (), 3)
    assert [group.labels for group in facts.groups] == [(0,), (1, 2, 3, 4)]
    for part in facts.groups:
        served = [marginal_rank(alpha, part.n) for alpha in LEVELS if marginal_rank(alpha, part.n)]
        assert [level.marginal_rank for level in part.levels] == served
