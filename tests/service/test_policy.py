"""From ranks to decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softrisk_core.conformal import marginal_rank, smallest_alpha
from softrisk_core.errors import CalibrationError
from softrisk_service.policy import Policy, risk_header, risk_score


def test_by_default_review_is_the_bundles_level_and_reject_a_tenth_of_it() -> None:
    policy = Policy.of(9999, 0.05, None, None)
    assert policy.alpha_review == 0.05
    assert policy.alpha_reject == pytest.approx(0.005)
    assert (policy.review_rank, policy.reject_rank) == (500, 50)
    assert [policy.decide(rank) for rank in (1, 50, 51, 500, 501, 10_000)] == [
        "reject", "reject", "review", "review", "accept", "accept",
    ]  # fmt: skip


def test_the_operators_levels_win() -> None:
    policy = Policy.of(999, 0.05, 0.1, 0.01)
    assert (policy.review_rank, policy.reject_rank) == (100, 10)


@given(st.integers(19, 10**6), st.floats(0.05, 0.5))
def test_the_default_levels_always_work_and_are_ordered(n: int, alpha: float) -> None:
    policy = Policy.of(n, alpha, None, None)
    assert policy.alpha_reject >= smallest_alpha(n)
    assert 1 <= policy.reject_rank <= policy.review_rank == marginal_rank(alpha, n)


def test_levels_that_cannot_work_are_refused() -> None:
    with pytest.raises(CalibrationError, match="at least 9999"):
        Policy.of(999, 0.05, None, 0.0001)
    with pytest.raises(CalibrationError, match="must not exceed"):
        Policy.of(999, 0.05, None, 0.1)


def test_the_header_tells_the_largest_score_and_the_flags() -> None:
    assert risk_header([3451, 70, 100], 99, 9999) == "max=0.993; flagged=1"
    assert risk_score(10_000, 9999) == 0
