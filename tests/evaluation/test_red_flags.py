"""Signs of an evaluation that is too kind."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from softrisk_evaluation.false_alarms import realised
from softrisk_evaluation.red_flags import red_flags, zero_gradients
from softrisk_evaluation.report import AttackResult, Detection, Proportion

NO_ZEROS = Proportion.of(0, 1000)


def result(
    name: Literal["FGSM", "PGD"], epsilon: float, right: int, *, auroc: float = 0.9, successful: int = 500
) -> AttackResult:
    detection = (Detection(score="risk_score", strange="high", auroc=auroc, points=()),)
    return AttackResult(
        label=f"{name} ε={epsilon:g}",
        name=name,
        epsilon=epsilon,
        steps=1,
        step_size=epsilon,
        restarts=1,
        robust=Proportion.of(right, 1000),
        successful=successful,
        on_successful=detection,
        on_all=detection,
    )


def test_a_plausible_evaluation_has_none() -> None:
    attacks = [result("FGSM", 0.1, 800), result("PGD", 0.1, 700), result("FGSM", 0.2, 500), result("PGD", 0.2, 200)]
    assert red_flags(attacks, NO_ZEROS, realised(np.arange(1, 101), 99, [0.1])) == ()


@pytest.mark.parametrize(
    ("attacks", "finding", "advice"),
    [
        ([result("FGSM", 0.1, 600), result("PGD", 0.1, 700)], "one step beats many", "--steps"),
        ([result("PGD", 0.1, 600), result("PGD", 0.2, 601)], "PGD ε=0.2 leaves 60.10% right, more than", "--restarts"),
        ([result("PGD", 0.1, 600, auroc=0.31)], "below clean images: AUROC 0.310", "another score"),
        ([result("PGD", 0.1, 990, successful=3)], "only 3 successful", "--epsilon"),
    ],
)
def test_each_sign_is_found_and_says_what_to_do(attacks: list[AttackResult], finding: str, advice: str) -> None:
    (flag,) = red_flags(attacks, NO_ZEROS, [])
    assert finding in flag.finding
    assert advice in flag.advice


def test_zero_gradients_are_found() -> None:
    class Saturated(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            flat = inputs.flatten(1)
            # A bright first pixel gives a gap of 1e4: its softmax is exactly 1 in float32.
            return torch.stack([flat[:, 0] * 1e4, flat[:, 1]], dim=1)

    inputs = np.zeros((3, 1, 1, 2), np.float32)
    inputs[0, 0, 0, 0] = 1
    share = zero_gradients(Saturated(), inputs, np.array([0, 0, 1]))
    assert (share.successes, share.trials) == (1, 3)
    (flag,) = red_flags([], share, [])
    assert "33.33%" in flag.finding
    assert "upper bound" in flag.advice


@pytest.mark.parametrize("flagged", [0, 387])
def test_a_false_alarm_rate_outside_the_law_is_found(flagged: int) -> None:
    test_ranks = np.repeat([1, 500], [flagged, 1000 - flagged])
    (flag,) = red_flags([], None, realised(test_ranks, 499, [0.1]))
    assert f"{flagged / 1000:.1%} of the clean images are flagged at α = 0.1, the law allows" in flag.finding
    assert "softrisk calibrate" in flag.advice
