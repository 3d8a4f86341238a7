"""The gate follows the service, or the caller's own levels, and never accepts for want of information."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from softrisk_client import Decision, InvalidArgumentError, Prediction, Risk, UndecidedError, gate


def judged(decision: Decision, rank: int | None = None, n: int = 999) -> Prediction:
    p_value = None if rank is None else rank / (n + 1)
    risk = Risk(decision=decision, flagged=decision is not Decision.ACCEPT, p_value=p_value, rank=rank)
    return Prediction(label=0, class_name="0", risk=risk)


@pytest.mark.parametrize("decision", list(Decision))
def test_without_levels_the_service_decides(decision: Decision) -> None:
    assert gate(judged(decision)) is decision


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (1, Decision.REJECT),
        (10, Decision.REJECT),
        (11, Decision.REVIEW),
        (50, Decision.REVIEW),
        (51, Decision.ACCEPT),
        (1000, Decision.ACCEPT),
    ],
)
@pytest.mark.parametrize("decision", list(Decision))
def test_two_levels_replace_the_policy(rank: int, expected: Decision, decision: Decision) -> None:
    assert gate(judged(decision, rank), alpha_review=0.05, alpha_reject=0.01) is expected


def test_one_level_replaces_its_own_step_only() -> None:
    assert gate(judged(Decision.REJECT, 40), alpha_review=0.01) is Decision.REJECT
    assert gate(judged(Decision.REVIEW, 40), alpha_review=0.01) is Decision.ACCEPT
    assert gate(judged(Decision.ACCEPT, 40), alpha_review=0.05) is Decision.REVIEW
    assert gate(judged(Decision.ACCEPT, 40), alpha_reject=0.05) is Decision.REJECT
    assert gate(judged(Decision.REJECT, 40), alpha_reject=0.01) is Decision.REVIEW
    assert gate(judged(Decision.ACCEPT, 40), alpha_reject=0.01) is Decision.ACCEPT


@given(n=st.integers(99, 200_000), rank=st.integers(1, 200_001), percent=st.integers(1, 99))
def test_a_level_stops_exactly_the_ranks_of_the_integer_rule(n: int, rank: int, percent: int) -> None:
    assume(rank <= n + 1)
    stopped = gate(judged(Decision.ACCEPT, rank, n), alpha_review=percent / 100) is Decision.REVIEW
    assert stopped == (rank <= percent * (n + 1) // 100)


@pytest.mark.parametrize(("rank", "n", "alpha"), [(10, 99, 1 - 0.9), (1, 99, 0.01 - 1e-13), (7, 99, 0.07)])
def test_rounding_does_not_let_a_flagged_rank_pass(rank: int, n: int, alpha: float) -> None:
    assert gate(judged(Decision.ACCEPT, rank, n), alpha_review=alpha) is Decision.REVIEW


def test_undisclosed_risk_is_never_accepted() -> None:
    with pytest.raises(UndecidedError, match="does not disclose its decision"):
        gate(Prediction(label=0, class_name="0"))
    with pytest.raises(UndecidedError, match="does not disclose p-values"):
        gate(judged(Decision.ACCEPT), alpha_review=0.05)


def test_a_p_value_without_its_rank_is_enough() -> None:
    risk = Risk(decision=Decision.ACCEPT, flagged=False, p_value=0.01)
    assert gate(Prediction(label=0, class_name="0", risk=risk), alpha_reject=0.02) is Decision.REJECT


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan")])
def test_a_level_is_between_zero_and_one(alpha: float) -> None:
    for decision in Decision:
        with pytest.raises(InvalidArgumentError, match="between 0 and 1"):
            gate(judged(decision, 5), alpha_review=alpha)


def test_a_level_that_can_never_stop_anything_is_refused() -> None:
    assert gate(judged(Decision.ACCEPT, 5), alpha_review=0.001) is Decision.ACCEPT
    with pytest.raises(InvalidArgumentError, match="holds 999 inputs, which resolve 1/1000; at least 1999 are needed"):
        gate(judged(Decision.ACCEPT, 5), alpha_review=0.0005)
    with pytest.raises(InvalidArgumentError, match="can never stop anything"):
        gate(judged(Decision.ACCEPT, 5), alpha_review=5e-324)


def test_levels_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"alpha_reject = 0\.05 is above alpha_review = 0\.01"):
        gate(judged(Decision.ACCEPT, 5), alpha_review=0.01, alpha_reject=0.05)
