"""Calibration groups: who gets one, what a rank in one means, and what is promised for each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from softrisk_core.conformal import marginal_rank, rank_limit, ranks
from softrisk_core.errors import CalibrationError
from softrisk_core.groups import Grouping, group_by_class

ALPHA = 0.1
"""A class needs 20 rows for a group of its own, and a shared group 9."""


def predicted(*counts: int) -> NDArray[np.int64]:
    """Predicted labels, so many of each."""
    return np.repeat(np.arange(len(counts)), counts)


ALPHAS = st.sampled_from([0.02, 0.05, 0.1, 0.3]) | st.floats(0.02, 0.9)


@given(st.lists(st.integers(0, 120), min_size=2, max_size=12), ALPHAS)
def test_every_group_can_flag_and_only_large_classes_have_their_own(counts: list[int], alpha: float) -> None:
    try:
        grouping = group_by_class(predicted(*counts), len(counts), alpha)
    except CalibrationError:
        large = [count for count in counts if count * alpha >= 2 - 1e-9]
        rest = sum(counts) - sum(large)
        assert not large or (len(large) < len(counts) and len(large) == 1 and marginal_rank(alpha, rest) < 1)
        return
    assert sum(grouping.sizes) == sum(counts)
    assert all(marginal_rank(alpha, n) >= 1 for n in grouping.sizes)
    members = [grouping.keys(group) for group in range(len(grouping.sizes))]
    assert sorted(label for group in members for label in group) == list(range(len(counts)))
    assert all(sum(counts[label] for label in group) == n for group, n in zip(members, grouping.sizes, strict=True))
    *own, last = members
    assert own == sorted(own)
    assert all(len(group) == 1 and counts[group[0]] * alpha >= 2 - 1e-9 for group in own)
    # The last is one more of them, or shared, with at most one class that would have had enough.
    strangers = [label for label in last if counts[label] * alpha >= 2 - 1e-9]
    assert len(strangers) <= 1
    if strangers and len(last) > 1:
        assert marginal_rank(alpha, sum(counts[label] for label in last if label not in strangers)) < 1
        assert all(counts[strangers[0]] <= counts[group[0]] for group in own)


@pytest.mark.parametrize(
    ("counts", "of_label", "sizes"),
    [
        ((20, 20), (0, 1), (20, 20)),
        ((20, 19, 30), (0, 2, 1), (20, 30, 19)),
        ((5, 50, 4, 60), (2, 0, 2, 1), (50, 60, 9)),
        # Eight rows can flag nothing: the smaller of the two large classes joins them.
        ((5, 60, 3, 50), (1, 0, 1, 1), (60, 58)),
        # A class that is never predicted for calibration rows must be able to flag as well.
        ((40, 0, 30), (0, 1, 1), (40, 30)),
    ],
)
def test_small_classes_share_one(counts: tuple[int, ...], of_label: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    assert group_by_class(predicted(*counts), len(counts), ALPHA) == Grouping(of_label, sizes)


@pytest.mark.parametrize("counts", [(19, 19, 19), (50, 8), (500, 0)])
def test_a_single_group_is_refused_with_what_would_be_needed(counts: tuple[int, ...]) -> None:
    with pytest.raises(CalibrationError, match=r"needs 20 .* at least 9 together.*without --per-class"):
        group_by_class(predicted(*counts), len(counts), ALPHA)


Rows = list[tuple[int, float]]
rows: st.SearchStrategy[Rows] = st.lists(
    st.tuples(st.integers(0, 3), st.integers(-5, 5).map(float)), min_size=1, max_size=40
)


@given(rows, rows)
def test_a_rank_counts_the_scores_of_its_own_group(calibration: Rows, new: Rows) -> None:
    of_label = (0, 1, 1, 2)
    labels, scores = np.array([label for label, _ in calibration]), np.array([s for _, s in calibration], np.float32)
    sizes = np.bincount(np.array(of_label)[labels], minlength=3)
    grouping = Grouping(of_label, tuple(sizes.tolist()))
    new_labels, new_scores = np.array([label for label, _ in new]), np.array([s for _, s in new], np.float32)
    found = grouping.ranks(new_scores, new_labels, grouping.sort(scores, labels))
    for label, score, rank in zip(new_labels, new_scores, found, strict=True):
        own = [s for each, s in calibration if of_label[each] == of_label[label]]
        assert rank == 1 + sum(s >= score for s in own)
    expected = found / np.array([grouping.size_of_key[label] + 1 for label in new_labels])
    np.testing.assert_array_equal(grouping.p_values(found, new_labels), expected)


@given(rows)
def test_one_group_is_the_marginal_calibration(calibration: Rows) -> None:
    labels, scores = np.array([label for label, _ in calibration]), np.array([s for _, s in calibration], np.float32)
    grouping = Grouping.marginal(len(scores), 4)
    assert grouping.is_marginal
    kept = grouping.sort(scores, labels)
    np.testing.assert_array_equal(kept, np.sort(scores))
    np.testing.assert_array_equal(grouping.ranks(scores, labels, kept), ranks(scores, scores))


def test_limits_are_those_of_each_group_and_refused_if_one_is_too_small() -> None:
    grouping = Grouping((1, 0, 1), (99, 999))
    assert grouping.rank_limits(0.05) == (50, 5, 50)
    assert grouping.rank_limits(0.05, "confident") == tuple(rank_limit(0.05, n, "confident") for n in (999, 99, 999))
    with pytest.raises(CalibrationError, match=r"smallest of 2 calibration groups.* at least 999"):
        grouping.rank_limits(0.001)
    with pytest.raises(CalibrationError, match=r"smallest of 2 calibration groups.* at least 299"):
        grouping.rank_limits(0.01, "confident")


@given(
    st.lists(st.lists(st.integers(-5, 5).map(float), min_size=30, max_size=60), min_size=1, max_size=3),
    st.lists(st.integers(0, 8).map(float), min_size=12, max_size=16),
)
def test_false_alarms_keep_to_alpha_for_each_class_with_its_own_group(
    large: list[list[float]], small: list[float]
) -> None:
    """Each row in turn against the others, as in the proof of the promise: exact, no sampling."""
    # Two small classes; their scores are the strangest, for which a marginal calibration would flag them above all.
    classes = [*large, small[::2], small[1::2]]
    labels = predicted(*map(len, classes))
    scores = np.array([score for each in classes for score in each], np.float32)
    flagged = np.empty(len(scores), np.bool_)
    for row in range(len(scores)):
        others, theirs = np.delete(scores, row), np.delete(labels, row)
        grouping = group_by_class(theirs, len(classes), ALPHA)
        rank = grouping.ranks(scores[row : row + 1], labels[row : row + 1], grouping.sort(others, theirs))
        flagged[row] = rank[0] <= grouping.rank_limits(ALPHA)[labels[row]]
    for label in range(len(large)):
        assert flagged[labels == label].mean() <= ALPHA
    assert flagged[labels >= len(large)].mean() <= ALPHA
    assert flagged.mean() <= ALPHA


def test_a_marginal_calibration_makes_no_such_promise() -> None:
    """The class of strange scores gets all false alarms of a marginal calibration, and its share of its own."""
    labels = predicted(900, 100)
    scores = np.arange(1000, dtype=np.float32)
    marginal = ranks(scores, scores) <= 101  # each counts itself
    assert (marginal[labels == 0].mean(), marginal[labels == 1].mean()) == (0.0, 1.0)
    grouping = group_by_class(labels, 2, ALPHA)
    limits = np.array(grouping.rank_limits(ALPHA))[labels]
    flagged = grouping.ranks(scores, labels, grouping.sort(scores, labels)) <= limits
    # A calibration row counts itself, so that this is the rate less one row.
    assert flagged[labels == 0].mean() == pytest.approx(ALPHA, abs=0.011)
    assert flagged[labels == 1].mean() == pytest.approx(ALPHA, abs=0.011)
