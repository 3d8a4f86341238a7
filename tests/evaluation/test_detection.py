"""Detection figures from the answers of the artifact."""

import dataclasses

import numpy as np
import pytest

from softrisk_core.diagnostics import DIAGNOSTICS, diagnose, softmax
from softrisk_core.groups import Grouping
from softrisk_evaluation.artifact import Answers
from softrisk_evaluation.detection import detect
from softrisk_evaluation.directions import DIRECTIONS

GROUPING = Grouping.marginal(199, 3)


def answers(gaps: list[float], ranks: list[int]) -> Answers:
    logits = np.array([[gap, 0.0, -1.0] for gap in gaps]).reshape(-1, 3)
    diagnostics = diagnose(logits) if gaps else {name: np.empty(0) for name in DIAGNOSTICS}
    return Answers(
        label=logits.argmax(axis=1),
        rank=np.array(ranks, np.int64),
        nonconformity=-logits[:, 0].astype(np.float32),
        diagnostics={name: values.astype(np.float32) for name, values in diagnostics.items()},
        runner_up=np.full(len(gaps), 1),
        profile=-np.sort(-softmax(logits), axis=1).astype(np.float32) if gaps else np.empty((0, 3), np.float32),
    )


CLEAN = answers([9, 8, 7, 6, 5, 4], [190, 150, 100, 60, 30, 8])


def test_every_diagnostic_has_a_direction_and_a_reason() -> None:
    assert tuple(DIRECTIONS) == DIAGNOSTICS
    assert all(direction.reason for direction in DIRECTIONS.values())


def test_the_risk_score_comes_first_and_has_the_flags_of_the_bundle() -> None:
    originals = answers([9, 8, 7, 6], [190, 150, 60, 8])
    found = detect(CLEAN, originals, answers([0.1, 0.2, 6.5, 3.0], [1, 2, 80, 11]), GROUPING)
    assert [detection.score for detection in found] == ["risk_score", *DIAGNOSTICS]
    risk = found[0]
    # 20 of 24 pairs: only 80 is not the strangest, and loses to 60, 30 and 8; 11 loses to 8.
    assert risk.auroc == pytest.approx(20 / 24)
    # Of their own originals 80 loses to 60 and 8, 11 to 8.
    assert risk.auroc_on_originals == pytest.approx(13 / 16)
    at_1, at_5 = risk.flags
    assert (at_1.threshold, at_5.threshold) == ("calibration", "calibration")
    assert at_1.detected is not None
    assert at_5.detected is not None
    assert (at_1.detected.successes, at_5.detected.successes) == (2, 2)  # ranks ≤ 2 and ≤ 10 of 200
    # None of the 6 clean images may be flagged at 5 %, so ranks < 8 are.
    assert [point.detected and point.detected.successes for point in risk.points] == [2, 2]
    assert all(point.threshold == "clean test images" for detection in found for point in detection.points)
    assert not any(detection.flags for detection in found[1:])


def test_a_direction_is_kept_where_the_attack_points_the_other_way() -> None:
    over_confident = answers([20, 21, 22], [200, 200, 200])
    found = {detection.score: detection for detection in detect(CLEAN, CLEAN, over_confident, GROUPING)}
    assert found["risk_score"].auroc == 0
    assert found["logit_gap"].auroc == 0
    assert found["logit_gap"].strange == "low"


def test_without_attacked_inputs_nothing_is_claimed() -> None:
    for detection in detect(CLEAN, answers([], []), answers([], []), GROUPING):
        assert detection.auroc is None
        assert detection.auroc_on_originals is None
        assert all(point.detected is None for point in (*detection.points, *detection.flags))


def test_a_calibration_too_small_for_a_rate_has_no_figure_there() -> None:
    at_1, at_5 = detect(CLEAN, CLEAN, answers([0.1], [1]), Grouping.marginal(50, 3))[0].flags
    assert at_1.detected is None
    assert at_5.detected is not None


def test_groups_are_compared_by_p_values_and_flagged_by_their_own_limits() -> None:
    def labelled(labels: list[int], ranks: list[int]) -> Answers:
        return dataclasses.replace(answers([1.0] * len(labels), ranks), label=np.array(labels))

    grouping = Grouping((0, 1, 1), (99, 999))
    clean = labelled([0, 1, 1], [50, 400, 300])
    risk = detect(clean, clean, labelled([0, 0, 1, 1], [5, 45, 50, 51]), grouping)[0]
    # 0.45 of the small group is less strange than 0.4 and 0.3 of the large one: 10 of 12 pairs.
    assert risk.auroc == pytest.approx(10 / 12)
    at_1, at_5 = risk.flags
    assert at_1.detected is not None
    assert at_5.detected is not None
    assert (at_1.detected.successes, at_5.detected.successes) == (0, 2)
    assert detect(clean, clean, clean, Grouping((0, 1, 1), (50, 999)))[0].flags[0].detected is None
