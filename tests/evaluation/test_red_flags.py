"""What each fact about an evaluation is taken for: passed or a red flag, with what to do."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from softrisk_attacks.attack import Family
from softrisk_core.groups import Grouping
from softrisk_evaluation.artifact import Answers
from softrisk_evaluation.false_alarms import realised
from softrisk_evaluation.red_flags import checks, implied_classifiers, soundness_checks, soundness_flags
from softrisk_evaluation.report import (
    Adaptive,
    AttackResult,
    Check,
    Convergence,
    Detection,
    Gap,
    Proportion,
    Soundness,
    WithRejection,
    WorstCase,
)


def result(
    name: str, epsilon: float, right: int, *, family: Family = "iterative", auroc: float = 0.9, successful: int = 500
) -> AttackResult:
    detection = (Detection(score="risk_score", strange="high", auroc=auroc, auroc_on_originals=auroc, points=()),)
    return AttackResult(
        label=f"{name} ε={epsilon:g}",
        name=name,
        family=family,
        epsilon=epsilon,
        settings={"epsilon": epsilon},
        robust=Proportion.of(right, 1000),
        successful=successful,
        on_successful=detection,
        on_all=detection,
    )


def single_step(epsilon: float, right: int) -> AttackResult:
    return result("FGSM", epsilon, right, family="single-step")


def gap(attack: str, only: int, images: int = 100) -> Gap:
    return Gap(attack=attack, against=("PGD-20 ε=0.1 ×5",), only=Proportion.of(only, images))


SOUND = Soundness(
    epsilon=0.1,
    images=100,
    zero_gradients=Proportion.of(0, 100),
    non_finite_gradients=Proportion.of(0, 100),
    repeat_difference=0.0,
    batch_difference=1e-6,
    loss_variability=0.1,
    unbounded=Proportion.of(99, 100),
    single_step=(gap("FGSM ε=0.1", 2, 1000),),
    gradient_free=(gap("Square-500 ε=0.1", 1),),
    stronger=(gap("PGD-40 ε=0.1 ×5", 2),),
    convergence=Convergence(attack="APGD-CE-100 ε=0.1", standing=40, last_gain=0.01),
)


def ranked(ranks: NDArray[np.int64]) -> Answers:
    """Answers of which only the ranks count."""
    zeros = np.zeros(len(ranks))
    return Answers(
        label=zeros.astype(np.int64),
        rank=ranks,
        nonconformity=zeros.astype(np.float32),
        diagnostics={},
        runner_up=np.ones_like(ranks),
        profile=np.full((len(ranks), 2), 0.5, np.float32),
    )


def fired(found: tuple[Check, ...]) -> list[Check]:
    return [check for check in found if check.red_flag]


def test_a_plausible_evaluation_passes_every_check() -> None:
    attacks = [single_step(0.1, 800), result("PGD", 0.1, 700), single_step(0.2, 500), result("PGD", 0.2, 200)]
    made = checks(attacks, [SOUND], realised(ranked(np.arange(1, 101)), Grouping.marginal(99, 2), [0.1]))
    assert fired(made) == []
    signs = " ".join(check.sign for check in made)
    for expected in (
        "false alarms at α = 0.1", "PGD ε=0.1 against one step", "PGD ε=0.2 against PGD ε=0.1",
        "input gradients of zero", "Square-500 ε=0.1 against every attack by gradients", "last ten steps of APGD-CE",
    ):  # fmt: skip
        assert expected in signs


@pytest.mark.parametrize(
    ("attacks", "finding", "advice"),
    [
        ([single_step(0.1, 600), result("PGD", 0.1, 700)], "leaves 70.00% right, FGSM ε=0.1 60.00%", "--steps"),
        ([result("PGD", 0.1, 600), result("PGD", 0.2, 601)], "PGD ε=0.2 against PGD ε=0.1: leaves 60.10%", "converge"),
        ([result("PGD", 0.1, 600, auroc=0.31)], "risk score under PGD ε=0.1: AUROC 0.310", "another score"),
        ([result("PGD", 0.1, 990, successful=3)], "successes of PGD ε=0.1: 3 successful", "--epsilon"),
    ],
)
def test_each_sign_in_the_results_is_found(attacks: list[AttackResult], finding: str, advice: str) -> None:
    (flag,) = fired(checks(attacks, [], []))
    assert finding in flag.finding
    assert advice in flag.advice


@pytest.mark.parametrize(
    ("facts", "finding", "limit", "advice"),
    [
        ({"zero_gradients": Proportion.of(1, 100)}, "input gradients of zero: 1 of 100 images", "none", "upper bound"),
        ({"non_finite_gradients": Proportion.of(2, 100)}, "not finite: 2 of 100 images", "none", "overflow"),
        ({"repeat_difference": 0.01}, "logits of two passes: differ by 1.0e-02", "≤ 1e-04", "EoT"),
        ({"batch_difference": 0.01}, "in a batch and alone: differ by 1.0e-02", "≤ 1e-04", "running statistics"),
        ({"loss_variability": 0.8}, "margin under noise of ±0.05: changes by 80.0%", "≤ 50%", "rough"),
        ({"unbounded": Proportion.of(98, 100)}, "without a bound: misses 2 of 100 images", "≤ 1", "attack is at fault"),
        ({"single_step": (gap("FGSM", 2, 499),)}, "FGSM against many steps: alone fools 2", "≤ 1", "one step beats"),
        ({"single_step": (gap("FGSM", 3, 1000),)}, "alone fools 3 of 1000 images", "≤ 2", "one step beats many"),
        ({"gradient_free": (gap("Square", 2),)}, "Square against every attack by gradients: alone", "≤ 1", "BPDA"),
        ({"stronger": (gap("PGD-40", 3),)}, "PGD-40 against attacks of less effort: alone", "≤ 2", "not converged"),
        (
            {"convergence": Convergence(attack="APGD", standing=3, last_gain=0.06)},
            "last ten steps of APGD: 6.0% of the gain on the 3 images",
            "≤ 5%",
            "still rises",
        ),
    ],
)
def test_each_sign_in_the_facts_is_found(facts: dict[str, Any], finding: str, limit: str, advice: str) -> None:
    (flag,) = soundness_flags(SOUND.model_copy(update=facts))
    assert finding in flag.finding
    assert flag.limit == limit
    assert advice in flag.advice


def test_what_could_not_be_measured_is_not_checked() -> None:
    bare = SOUND.model_copy(update={"unbounded": None, "convergence": None})
    assert {check.sign for check in soundness_checks(SOUND)} - {check.sign for check in soundness_checks(bare)} == {
        "an attack without a bound",
        "last ten steps of APGD-CE-100 ε=0.1",
    }


def test_what_does_not_depend_on_the_radius_is_said_once() -> None:
    larger = SOUND.model_copy(update={"epsilon": 0.2})
    signs = [check.sign for check in checks([], [SOUND, larger], [])]
    assert signs.count("input gradients of zero") == 1
    assert {"margin under noise of ±0.05", "margin under noise of ±0.1"} <= set(signs)


@pytest.mark.parametrize("flagged", [0, 387])
def test_a_false_alarm_rate_outside_the_law_is_found(flagged: int) -> None:
    test_ranks = np.repeat([1, 500], [flagged, 1000 - flagged])
    (flag,) = fired(checks([], [], realised(ranked(test_ranks), Grouping.marginal(499, 2), [0.1])))
    assert flag.finding == f"false alarms at α = 0.1: {flagged / 1000:.1%} of the clean images are flagged"
    assert flag.limit.startswith("the law allows ")
    assert "softrisk calibrate" in flag.advice


def rejecting(epsilon: float, robust: int) -> Adaptive:
    row = WithRejection(epsilon=epsilon, alpha=0.05, clean=Proportion.of(950, 1000), robust=Proportion.of(robust, 1000))
    return Adaptive(attacks=(), worst_case=(row,), flooding=())


@pytest.mark.parametrize(("robust", "red"), [(560, True), (510, False), (300, False)])
def test_a_flag_that_is_worth_more_than_half_the_radius_is_not_believed(robust: int, red: bool) -> None:
    own = [WorstCase(epsilon=epsilon, robust=Proportion.of(right, 1000)) for epsilon, right in ((0.1, 500), (0.2, 20))]
    (check,) = implied_classifiers(rejecting(0.2, robust), own)
    assert check.sign == "classifier implied by the flag at ε = 0.2, α = 0.05"
    assert check.found == f"{robust / 1000:.1%} robust accuracy at ε = 0.1"
    assert "50.0%, what this one has there" in check.limit
    assert check.red_flag == red
    assert "attacks on the flag are too weak" in check.advice


def test_what_a_flag_implies_is_said_where_it_cannot_be_compared() -> None:
    (check,) = implied_classifiers(rejecting(0.2, 900), [WorstCase(epsilon=0.2, robust=Proportion.of(20, 1000))])
    assert check.found == "90.0% robust accuracy at ε = 0.1"
    assert "--epsilon 0.1" in check.limit
    assert not check.red_flag
    assert implied_classifiers(None, []) == ()
