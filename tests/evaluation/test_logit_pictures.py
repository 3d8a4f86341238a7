"""What pictures of logits are drawn from, and that they draw it."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.patches import Patch, Polygon
from numpy.typing import NDArray

from softrisk_core.diagnostics import diagnose, softmax
from softrisk_evaluation.experiments.logits import by_kind, disagreement, draw_gallery
from softrisk_evaluation.logit_pictures.drawings import Ends, draw_levels, draw_profiles, draw_runner_up
from softrisk_evaluation.logit_pictures.shape import (
    CLEAN,
    LENGTH,
    STANDING,
    TURNED,
    Shape,
    bands,
    largest,
    transitions,
)

LOGITS = hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(2, 15)), elements=st.floats(-30, 30, width=32))


@given(LOGITS)
def test_the_profile_is_the_softmax_in_order(logits: NDArray[np.float32]) -> None:
    found = largest(logits)
    probabilities, rows = softmax(logits), np.arange(len(logits))
    assert found.profile.shape == (len(logits), min(LENGTH, logits.shape[1]))
    assert (np.diff(found.profile, axis=1) <= 0).all()
    np.testing.assert_allclose(found.profile, -np.sort(-probabilities, axis=1)[:, :LENGTH], rtol=1e-6)
    assert (found.label == logits.argmax(axis=1)).all()
    assert (found.label != found.runner_up).all()
    np.testing.assert_allclose(probabilities[rows, found.runner_up], found.profile[:, 1], rtol=1e-6)


@given(LOGITS)
def test_a_shape_has_the_levels_of_the_diagnostics(logits: NDArray[np.float32]) -> None:
    shape, diagnostics = Shape.of(logits), diagnose(logits)
    np.testing.assert_array_equal(shape.max_logit, diagnostics["max_logit"])
    np.testing.assert_array_equal(shape.logit_gap, diagnostics["logit_gap"])
    some = shape.select(np.arange(len(logits)) % 2 == 0)
    assert len(some.label) == len(some.profile) == (len(logits) + 1) // 2


def test_bands_hold_nine_of_ten() -> None:
    profile = np.linspace(0, 1, 101, dtype=np.float32)[:, None].repeat(2, axis=1)
    np.testing.assert_allclose(bands(profile), [[0.05, 0.05], [0.5, 0.5], [0.95, 0.95]], atol=1e-6)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20))
def test_transitions_are_shares_of_a_class(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    shares = transitions(first, second, 4)
    for row in range(4):
        mine = [other for one, other in pairs if one == row]
        assert shares[row].tolist() == pytest.approx([mine.count(column) / max(1, len(mine)) for column in range(4)])


KEPT = {
    "labels": np.array([0, 0, 1, 1]),
    "clean": np.array([[5, 3, 0], [4, 0, 3], [0, 6, 1], [9, 0, 1]], np.float32),
    # The first falls to its second class, the next to another, one stands, and one was wrong before.
    "attacked": np.array([[1, 2, 0], [0, 3, 2], [0, 3, 1], [9, 0, 1]], np.float32),
}


def test_what_was_wrong_before_is_neither_standing_nor_turned() -> None:
    kinds = by_kind(KEPT)
    assert list(kinds) == [CLEAN, STANDING, TURNED]
    assert [len(shape.label) for shape in kinds.values()] == [4, 1, 2]
    assert kinds[TURNED].max_logit.tolist() == [2, 3]
    assert kinds[STANDING].max_logit.tolist() == [3]


def test_attacks_that_follow_the_second_class_are_counted() -> None:
    label, runner_up = np.array([0, 0, 1, 0]), np.array([1, 2, 2, 2])
    assert Ends(label, runner_up, np.array([0, 1]), np.array([1, 1])).followed == 0.5
    mask = np.array([True, True, False, False])
    assert Ends(label, runner_up, mask, np.array([1, 2])).followed == 1
    assert np.isnan(Ends(label, runner_up, ~mask & mask, np.array([], np.int64)).followed)


def test_disagreement_goes_from_one_model_to_the_other() -> None:
    surer = {"clean": np.array([[5, 0], [1, 0], [0, 0.1]], np.float32)}
    other = {"clean": np.array([[0, 0.1], [1, 0], [0, 5]], np.float32)}
    assert disagreement(surer, other).tolist() == [0, 1, 2]
    assert disagreement(other, surer).tolist() == [2, 1, 0]
    inputs = np.stack([np.full((1, 4, 4), value, np.float32) for value in (0.1, 0.5, 0.9)])
    figure = draw_gallery(inputs, {"surer": surer, "other": other})
    drawn = [axes.images[0].get_array() for axes in figure.axes]
    assert [float(np.mean(picture)) for picture in drawn if picture is not None] == pytest.approx(
        [0.1, 0.5, 0.9, 0.9, 0.5, 0.1]
    )
    assert figure.axes[0].get_xlabel() == "0.99 | 0.52"


def area(line: Patch) -> float:
    """Of a histogram that is drawn as a line, in bins: its steps are pairs of equal heights."""
    assert isinstance(line, Polygon)
    corners = line.get_xy()
    heights = [float(y) for (x, y), (after, same) in pairwise(corners) if y == same and after > x]
    return sum(heights)


def test_histograms_of_all_models_share_their_axes_and_sum_to_one() -> None:
    scaled = {**KEPT, "clean": 3 * KEPT["clean"]}
    figure = draw_levels({"one": by_kind(KEPT), "scaled": by_kind(scaled)})
    upper_left, upper_right, *_ = figure.axes
    assert upper_left.get_xlim() == upper_right.get_xlim()
    assert upper_left.get_xlim()[1] >= 27
    heights = [bar.get_height() for bar in upper_left.patches if hasattr(bar, "get_height")]
    assert sum(heights) == pytest.approx(1)
    # Two of three attacks succeed, and their line holds two thirds.
    *_, standing, turned = upper_left.patches
    assert [area(line) for line in (standing, turned)] == pytest.approx([1 / 3, 2 / 3])
    legend = upper_left.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [f"{CLEAN}: 4", f"{STANDING}: 1", f"{TURNED}: 2"]


def test_profiles_are_drawn_at_their_medians() -> None:
    (axes,) = draw_profiles({"model": {CLEAN: Shape.of(KEPT["clean"][:1])}}).axes
    np.testing.assert_allclose(
        np.asarray(axes.lines[0].get_ydata()), -np.sort(-softmax(KEPT["clean"][:1])[0]), rtol=1e-5
    )


def test_without_a_success_no_ends_are_drawn() -> None:
    label, runner_up, none = np.array([0, 1]), np.array([1, 0]), np.array([], np.int64)
    alone = draw_runner_up({"model": Ends(label, runner_up, none, none)}, ["a", "b"])
    both = draw_runner_up({"model": Ends(label, runner_up, np.array([0]), np.array([1]))}, ["a", "b"])
    matrices = [[axes.images[0] for axes in figure.axes if axes.images] for figure in (alone, both)]
    assert [len(each) for each in matrices] == [1, 2]
    np.testing.assert_array_equal(matrices[1][0].get_array(), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(matrices[1][1].get_array(), [[0, 1], [0, 0]])
