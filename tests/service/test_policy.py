"""From ranks to decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softrisk_core.conformal import marginal_rank, smallest_alpha
from softrisk_core.errors import CalibrationError
from softrisk_core.groups import Grouping
from softrisk_service.policy import Policy, flags, risk_header, risk_score


def one_group(n: int) -> Grouping:
    return Grouping.marginal(n, 2)


def test_by_default_review_is_the_bundles_level_and_reject_a_tenth_of_it() -> None:
    policy = Policy.of(one_group(9999), 0.05, None, None)
    assert policy.alpha_review == 0.05
    assert policy.alpha_reject == pytest.approx(0.005)
    assert (policy.review_ranks, policy.reject_ranks) == ((500, 500), (50, 50))
    assert [policy.decide(rank, 1) for rank in (1, 50, 51, 500, 501, 10_000)] == [
        "reject", "reject", "review", "review", "accept", "accept",
    ]  # fmt: skip


def test_the_operators_levels_win() -> None:
    policy = Policy.of(one_group(999), 0.05, 0.1, 0.01)
    assert (policy.review_ranks, policy.reject_ranks) == ((100, 100), (10, 10))


@given(st.integers(19, 10**6), st.floats(0.05, 0.5))
def test_the_default_levels_always_work_and_are_ordered(n: int, alpha: float) -> None:
    policy = Policy.of(one_group(n), alpha, None, None)
    assert policy.alpha_reject >= smallest_alpha(n)
    assert 1 <= policy.reject_ranks[0] <= policy.review_ranks[0] == marginal_rank(alpha, n)


def test_levels_that_cannot_work_are_refused() -> None:
    with pytest.raises(CalibrationError, match="at least 9999"):
        Policy.of(one_group(999), 0.05, None, 0.0001)
    with pytest.raises(CalibrationError, match="must not exceed"):
        Policy.of(one_group(999), 0.05, None, 0.1)


def test_the_header_tells_the_largest_score_and_the_flags() -> None:
    assert risk_header([3451, 70, 100], [0, 1, 0], (99, 99), (9999, 9999)) == "max=0.993; flagged=1"
    assert risk_header([70], [1], (99, 99), (9999, 9999)) == "max=0.993; flagged=1"
    assert risk_score(10_000, 9999) == 0


def test_levels_are_those_of_the_group_of_the_label() -> None:
    policy = Policy.of(Grouping((0, 1, 0), (9999, 199)), 0.05, None, None)
    # A tenth of 0.05, which the smallest group can just serve.
    assert policy.alpha_reject == pytest.approx(0.005)
    assert policy.sizes == (9999, 199, 9999)
    assert (policy.review_ranks, policy.reject_ranks) == ((500, 10, 500), (50, 1, 50))
    assert [policy.decide(10, label) for label in range(3)] == ["reject", "review", "reject"]
    assert [policy.decide(11, label) for label in range(3)] == ["reject", "accept", "reject"]
    assert Policy.of(Grouping((0, 1), (9999, 99)), 0.05, None, None).alpha_reject == 0.01


def test_an_operators_level_that_one_group_cannot_serve_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"smallest of 2 calibration groups.*at least 999"):
        Policy.of(Grouping((0, 1), (9999, 199)), 0.05, None, 0.001)


def test_the_largest_risk_of_several_groups_is_not_that_of_the_smallest_rank() -> None:
    header = risk_header([3, 50, 8000], [0, 1, 1], (5, 500), (99, 9999))
    assert header == "max=0.995; flagged=2"


def test_flags_compare_each_rank_with_the_limit_of_its_label() -> None:
    assert flags([6, 6, 5, 101], [0, 1, 0, 1], (5, 100)) == [False, True, True, False]
