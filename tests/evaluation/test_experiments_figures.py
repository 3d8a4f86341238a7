"""The figures of the tables, on answers of which they are known."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from softrisk_evaluation.experiments.answers import curve, gap_auroc
from softrisk_evaluation.experiments.embedding import tips
from softrisk_evaluation.experiments.logits import gap_over_slope, levels, wrong_order_agreement
from softrisk_evaluation.experiments.runner_up import PREDICTORS, predictors, runner_up
from softrisk_evaluation.experiments.study import Kept
from softrisk_evaluation.experiments.worst_case import attack_table, flag_table, standing
from softrisk_evaluation.report import Proportion, Soundness


def one_hot(*classes: int) -> NDArray[np.float32]:
    return 9 * np.eye(4, dtype=np.float32)[list(classes)]


ANSWERS: Kept = {
    "labels": np.array([0, 0, 0, 0, 0]),
    # The first and the last fall to the second class, the next to another, one stays, and one was wrong before.
    "clean": np.array([[5, 3, 1, 0], [5, 4, 1, 0], [6, 0, 2, 1], [0, 5, 1, 2], [4.5, 1, 3, 0]], np.float32),
    "attacked": one_hot(1, 2, 0, 3, 2),
    "gap_slope": np.array([10, 10, 1, 1, 10], np.float32),
    "minimal": np.array([0.1, 0.05, np.inf, 0.0, 0.07], np.float32),
}


def test_the_runner_up_is_counted_among_successful_attacks() -> None:
    found = runner_up(ANSWERS)
    assert found.successes == 3
    assert found.share == pytest.approx(2 / 3)
    assert found.chance == pytest.approx(1 / 3)


def test_predictors_are_judged_on_images_that_are_right() -> None:
    found = runner_up(ANSWERS)
    # Gaps 2, 1, 4, 1.5: the larger, the farther, and the surer to stay.
    for name in ("logit_gap", "gap_over_slope"):
        assert found.distance_correlation[name] == pytest.approx(1)
        assert found.success_auroc[name] == 0
    assert found.distance_correlation["second_probability"] == pytest.approx(-1)
    assert found.success_auroc["second_probability"] == 1
    assert found.distance_correlation.keys() == found.success_auroc.keys() == set(PREDICTORS)


def test_without_a_success_nothing_is_said_about_successes() -> None:
    found = runner_up({**ANSWERS, "attacked": ANSWERS["clean"], "minimal": np.full(5, np.inf, np.float32)})
    assert found.successes == 0
    assert np.isnan(found.share)
    assert set(found.success_auroc.values()) == {None}
    assert set(found.distance_correlation.values()) == {None}


@given(st.floats(0.1, 50))
def test_the_gap_over_its_slope_has_no_scale(scale: float) -> None:
    clean, slope = ANSWERS["clean"], ANSWERS["gap_slope"]
    factor = np.float32(scale)
    scaled = {**ANSWERS, "clean": factor * clean, "gap_slope": factor * slope}
    np.testing.assert_allclose(
        predictors(scaled["clean"], scaled["gap_slope"])["gap_over_slope"], [0.2, 0.1, 4, 3, 0.15], rtol=1e-5
    )
    assert gap_over_slope(scaled) == pytest.approx(0.2, rel=1e-5)


def test_a_small_gap_tells_successes_from_clean_images() -> None:
    # Successes have gap 9, larger than every clean one.
    assert gap_auroc(ANSWERS) == 0
    unsure = {**ANSWERS, "attacked": ANSWERS["attacked"] / 90}
    assert gap_auroc(unsure) == 1
    assert gap_auroc({**ANSWERS, "attacked": ANSWERS["clean"]}) is None


@given(st.floats(0.1, 50), st.floats(-5, 5))
def test_levels_follow_scale_and_shift(scale: float, shift: float) -> None:
    clean = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    factor, offset = np.float32(scale), np.float32(shift)
    before, scaled, shifted = (levels(each) for each in (clean, factor * clean, clean + offset))
    for name in ("max_logit_over_std", "gap_over_std"):
        assert scaled[name] == pytest.approx(before[name], rel=1e-4)
    for name in ("max_logit", "logit_gap"):
        assert scaled[name] == pytest.approx(scale * before[name], rel=1e-4)
    for name in ("logit_gap", "confidence", "complement_entropy", "gap_over_std"):
        assert shifted[name] == pytest.approx(before[name], rel=1e-4)


def test_the_order_of_wrong_classes_agrees_whatever_the_largest_is() -> None:
    first = np.array([[9, 3, 2, 1], [1, 9, 2, 3]], np.float32)
    assert wrong_order_agreement(first, first) == 1
    # Opposite orders of the wrong classes, and nothing said about the class that the first model predicts.
    assert wrong_order_agreement(first, np.array([[-5, 1, 2, 3], [3, 0, 2, 1]], np.float32)) == -1
    # Of three pairs one is exchanged in the first image, none in the second.
    assert wrong_order_agreement(first, np.array([[9, 2, 3, 1], [1, 9, 2, 3]], np.float32)) == pytest.approx(2 / 3)


def embedded(attacked: list[list[float]]) -> Kept:
    """Clean outputs around 0.8 on each of three classes, and attacks on the first ones, which are of class 0."""
    centres = 0.1 + 0.7 * np.eye(3)
    wiggle = np.array([[0.02, -0.01, -0.01], [-0.02, 0.01, 0.01]])
    clean = (centres[:, None] + wiggle[None]).reshape(6, 3)
    labels = np.repeat(np.arange(3), 2)
    outputs = clean.copy()
    outputs[: len(attacked)] = np.reshape(attacked, (-1, 3))
    return {
        "labels": labels,
        "clean": np.log(clean).astype(np.float32),
        "attacked": np.log(np.maximum(outputs, 1e-6)).astype(np.float32),
    }


def test_attacks_are_at_the_edge_between_or_in_the_middle_of_clusters() -> None:
    plane = np.zeros((6, 2)), np.ones((6, 2))
    middle, tip, between = [0.1, 0.8, 0.1], [0.0, 1.0, 0.0], [0.44, 0.46, 0.1]
    found = tips(embedded([middle, tip]), plane)
    assert (found.attacks, found.at_the_edge, found.between) == (2, 0.5, 0)
    found = tips(embedded([middle, between]), plane)
    assert (found.at_the_edge, found.between) == (0.5, 0.5)
    found = tips(embedded([tip, between]), plane)
    assert (found.at_the_edge, found.between) == (1, 0.5)


def test_the_plane_is_judged_by_its_own_points() -> None:
    kept = embedded([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1]])
    clean = np.array([[0, 0], [0, 0], [5, 1], [5, -1], [0, 9], [0, 9]], np.float64)
    attacked = clean.copy()
    attacked[:2] = [[5, 0], [5, 3]]
    assert tips(kept, (clean, attacked)).plane_at_the_edge == 0.5


def test_without_attacks_there_is_no_edge() -> None:
    found = tips(embedded([]), (np.zeros((6, 2)), np.zeros((6, 2))))
    assert found.attacks == 0
    assert np.isnan([found.at_the_edge, found.between, found.plane_at_the_edge]).all()


radii = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.25, np.inf]), min_size=1, max_size=20).map(
    lambda values: np.array(values, np.float32)
)


@given(radii, st.lists(st.floats(0, 1), min_size=2, max_size=6).map(sorted))
def test_the_curve_falls(minimal: NDArray[np.float32], epsilons: list[float]) -> None:
    found = curve({"minimal": minimal}, epsilons)
    assert all(0 <= later <= earlier <= 1 for earlier, later in pairwise(found))
    assert curve({"minimal": minimal}, [0.0, 1.0]) == [(minimal > 0).mean(), np.isinf(minimal).mean()]


def test_an_image_falls_at_its_smallest_radius() -> None:
    minimal = np.array([0.0, 0.1, 0.2, np.inf], np.float32)
    assert curve({"minimal": minimal}, [0.05, 0.1, 0.15, 0.2, 0.3]) == [0.75, 0.5, 0.5, 0.25, 0.25]


def suite(*fooled: list[int]) -> Kept:
    return {
        "attacks": np.array(["FGSM", "PGD-5"]),
        "families": np.array(["single-step", "iterative"]),
        "attacked": np.array([4, 2]),
        "fooled": np.array(fooled, np.bool_),
    }


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 4), st.integers(1, 6))))
def test_an_image_stands_if_no_attack_fools_it(fooled: NDArray[np.bool_]) -> None:
    found = standing({"fooled": fooled})
    assert found.tolist() == [not any(column) for column in fooled.T]
    assert found.mean() <= (1 - fooled.mean(axis=1)).min() + 1e-12


def test_the_table_of_attacks_ends_with_the_worst_case_of_each_image() -> None:
    table = attack_table("CE", [suite([1, 0, 0, 0], [0, 1, 0, 0]), suite([1, 1, 0, 0], [0, 0, 0, 0])])
    assert table.rows == (
        ("FGSM", "single-step", "4", "62.5 ± 17.7"),
        # Of the two images that it attacks; the others stand because nobody asked them.
        ("PGD-5", "iterative", "2", "75.0 ± 35.4"),
        ("worst case", "all", "4", "50.0 ± 0.0"),
    )


def checked(**found: Any) -> Kept:
    none = Proportion.of(0, 10)
    sound = Soundness(
        epsilon=0.1,
        images=10,
        zero_gradients=none,
        non_finite_gradients=none,
        repeat_difference=0.0,
        batch_difference=0.0,
        loss_variability=0.1,
        unbounded=Proportion.of(10, 10),
        single_step=(),
        gradient_free=(),
        stronger=(),
        convergence=None,
    )
    return {"soundness": np.array(sound.model_copy(update=found).model_dump_json())}


def test_red_flags_are_counted_over_seeds_with_the_finding_of_the_first() -> None:
    masked = [checked(zero_gradients=Proportion.of(successes, 10)) for successes in (3, 7)]
    table = flag_table(
        "Red flags", {"CE": [checked(), checked()], "saturated": [*masked, checked(loss_variability=0.9)]}
    )
    assert [row[:2] for row in table.rows] == [("saturated", "2 of 3"), ("saturated", "1 of 3")]
    assert table.rows[0][2].endswith("3 of 10 images")


def test_no_red_flags_are_said_to_prove_little() -> None:
    ((name, *_, advice),) = flag_table("Red flags", {"CE": [checked()]}).rows
    assert name == "none"
    assert "no further" in advice
