"""Presence cases: which instances belong together, and what is promised within each case."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softrisk_core.conformal import marginal_rank
from softrisk_core.groups import Grouping
from softrisk_core.presence import find_cases, keep_present, presence_cases
from softrisk_core.rows import Inputs

ROWS: Inputs = {
    "image": np.arange(1, 49, dtype=np.float32).reshape(6, 2, 4),
    "audio": np.arange(1, 19, dtype=np.float32).reshape(6, 3),
    "text": np.arange(1, 7, dtype=np.float32).reshape(6, 1),
}


@pytest.mark.parametrize(
    ("optional", "cases"),
    [
        ((False, False, False), [("image", "audio", "text")]),
        ((False, True, False), [("image", "audio", "text"), ("image", "text")]),
        ((True, True, False), [("image", "audio", "text"), ("image", "text"), ("audio", "text"), ("text",)]),
        (
            (True, True, True),
            [
                *(("image", "audio", "text"), ("image", "audio"), ("image", "text"), ("image",)),
                *(("audio", "text"), ("audio",), ("text",)),
            ],
        ),
    ],
)
def test_cases_begin_with_all_inputs_and_each_is_found(
    optional: tuple[bool, ...], cases: list[tuple[str, ...]]
) -> None:
    may_lack = dict(zip(ROWS, optional, strict=True))
    assert list(presence_cases(may_lack)) == cases
    for index, case in enumerate(cases):
        assert (find_cases(keep_present(ROWS, case), may_lack) == index).all()
    if all(optional):
        assert (find_cases(keep_present(ROWS, ()), may_lack) == len(cases)).all()


def test_one_value_is_enough_to_be_there() -> None:
    sound = np.zeros((2, 5), np.float32)
    sound[1, 4] = -1e-30
    found = find_cases({"image": np.ones((2, 1), np.float32), "audio": sound}, {"image": True, "audio": True})
    np.testing.assert_array_equal(found, [1, 0])


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=12, max_size=40), st.floats(0.08, 0.9))
def test_false_alarms_keep_to_alpha_within_each_case(pairs: list[tuple[int, int]], alpha: float) -> None:
    """Each pair in turn against the others, in each case: exact, no sampling.

    The score depends on what is missing, so that one calibration for all cases would flag nothing but incomplete pairs.
    """
    inputs: Inputs = {
        name: np.array([pair[position] for pair in pairs], np.float32)[:, None]
        for position, name in enumerate(("image", "audio"))
    }
    optional = {"image": True, "audio": True}
    cases = presence_cases(optional)
    scores = [
        sum(values[:, 0] + 100 * (values[:, 0] == 0) for values in keep_present(inputs, case).values())
        for case in cases
    ]
    n = len(pairs) - 1
    for case in range(len(cases)):
        flagged = []
        for row in range(len(pairs)):
            others = [np.delete(each, row).astype(np.float32) for each in scores]
            grouping, keys = Grouping.by_case(n, len(cases)), np.repeat(np.arange(len(cases)), n)
            kept = grouping.sort(np.concatenate(others), keys)
            (rank,) = grouping.ranks(scores[case][row : row + 1], np.array([case]), kept)
            flagged.append(rank <= marginal_rank(alpha, n))
        assert np.mean(flagged) <= alpha + 1e-9
