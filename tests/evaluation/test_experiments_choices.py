"""What is chosen before anything is compared: the weight of DRSL, and the temperature of equal confidence."""

import math
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from softrisk_evaluation.experiments.arms import drsl
from softrisk_evaluation.experiments.confidence import RANGE, matching_temperature, mean_confidence
from softrisk_evaluation.experiments.sweep import Measured, Sweep, choose, is_matched
from softrisk_evaluation.experiments.task import BATCH_SIZE
from softrisk_training.losses import DRSLForm

CE_ACCURACY: Final = 0.9705
CE: Final = Measured(CE_ACCURACY, 0.6, 0.5)
TRIED: Final[list[tuple[DRSLForm, float]]] = [
    *(("logit", weight) for weight in (0.1, 1.0, 10.0)),
    *(("conditional", weight) for weight in (0.1, 1.0)),
]


def sweeps(accuracies: st.SearchStrategy[float]) -> st.SearchStrategy[Sweep]:
    # Few distinct values of robustness, so that ties are common.
    robust = st.integers(0, 3).map(lambda count: count / 4)
    measured = st.builds(lambda accuracy, robust: Measured(accuracy, 1.0, robust), accuracies, robust)
    return st.lists(measured, min_size=len(TRIED), max_size=len(TRIED)).map(lambda trials: choose(TRIED, trials, CE))


@given(sweeps(st.integers(950, 990).map(lambda thousandth: thousandth / 1000)))
def test_the_weight_that_holds_best_among_the_matched_ones_is_chosen(found: Sweep) -> None:
    for form in ("logit", "conditional"):
        trials = [trial for trial in found.trials if trial.form == form]
        (chosen,) = (trial for trial in trials if trial.chosen)
        matched = [trial for trial in trials if is_matched(trial.measured, CE)]
        if matched:
            assert chosen in matched
            assert chosen.measured.robust == max(trial.measured.robust for trial in matched)
            assert chosen.weight == min(
                trial.weight for trial in matched if trial.measured.robust == chosen.measured.robust
            )
        else:
            assert chosen.measured.accuracy == max(trial.measured.accuracy for trial in trials)


@given(sweeps(st.just(CE_ACCURACY)))
def test_the_best_arm_is_the_chosen_one_that_holds_best(found: Sweep) -> None:
    chosen = {trial.form: trial for trial in found.trials if trial.chosen}
    best = max(chosen.values(), key=lambda trial: trial.measured.robust)
    assert found.best == found.arm(best.form)
    for form, trial in chosen.items():
        assert found.arm(form) == drsl(form, trial.weight)


def test_matched_is_no_more_than_three_tenths_of_a_point_below_ce() -> None:
    below = [(0.0, True), (-0.02, True), (0.0029, True), (0.0031, False)]
    assert [is_matched(Measured(CE_ACCURACY - by, 1.0, 0.5), CE) for by, _ in below] == [
        matched for _, matched in below
    ]


def test_the_order_of_the_trials_is_kept() -> None:
    figures = zip([0.97, 0.98, 0.5, 0.96, 0.95], [0.1, 0.2, 0.9, 0.3, 0.4], strict=True)
    found = choose(TRIED, [Measured(accuracy, 1.0, robust) for accuracy, robust in figures], CE)
    assert [(trial.form, trial.weight) for trial in found.trials] == TRIED
    assert [trial.chosen for trial in found.trials] == [False, True, False, True, False]


def test_a_matched_form_goes_before_one_that_pays_with_accuracy() -> None:
    robust_but_inaccurate = Measured(0.5, 1.0, 0.9)
    measured = [Measured(CE_ACCURACY, 1.0, 0.6)] * 3 + [robust_but_inaccurate] * 2
    found = choose(TRIED, measured, CE)
    assert found.best == found.arm("logit")


def test_only_what_is_less_accurate_than_ce_is_not_matched() -> None:
    assert is_matched(Measured(CE_ACCURACY - 0.0029, 1.0, 0.5), CE)
    assert is_matched(Measured(CE_ACCURACY + 0.1, 1.0, 0.5), CE)
    assert not is_matched(Measured(CE_ACCURACY - 0.0031, 1.0, 0.5), CE)


def test_weights_of_the_authors_forms_count_for_each_sample() -> None:
    # The authors sum the penalty over the batch where CE is a mean.
    assert drsl("authors", 1.0).settings["tau"] == pytest.approx(1 / BATCH_SIZE)
    assert drsl("logit", 1.0).settings["tau"] == 1.0


logits = st.builds(
    lambda seed, scale: (scale * np.random.default_rng(seed).normal(size=(20, 5))).astype(np.float32),
    st.integers(0, 2**32 - 1),
    st.floats(0.1, 30),
)


@given(logits, st.floats(0.21, 0.999))
def test_the_matching_temperature_matches(logits: NDArray[np.float32], confidence: float) -> None:
    # Logits that nearly tie are unsure however cold it is.
    reachable = min(confidence, mean_confidence(logits, RANGE[0]))
    assert mean_confidence(logits, matching_temperature(logits, confidence)) == pytest.approx(reachable, abs=1e-6)


@given(logits, st.floats(-2, 2))
def test_models_that_differ_by_a_temperature_are_brought_together(logits: NDArray[np.float32], log: float) -> None:
    scaled = (logits * 10**log).astype(np.float32)
    confidence = mean_confidence(logits)
    assert mean_confidence(scaled, matching_temperature(scaled, confidence)) == pytest.approx(confidence, abs=1e-5)


def test_out_of_reach_means_the_nearer_end() -> None:
    coldest, hottest = RANGE
    logits = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    assert matching_temperature(logits, 0.5) == hottest
    assert matching_temperature(logits, 1.0) == coldest
    assert matching_temperature(np.zeros((3, 4), np.float32), 0.9) == coldest


def test_mean_confidence_of_a_known_softmax() -> None:
    logits = np.log(np.array([[3.0, 1.0], [1.0, 1.0]])).astype(np.float32)
    assert mean_confidence(logits) == pytest.approx((0.75 + 0.5) / 2)
    # √3 : 1 at temperature 2.
    assert mean_confidence(logits, 2.0) == pytest.approx((math.sqrt(3) / (1 + math.sqrt(3)) + 0.5) / 2)
