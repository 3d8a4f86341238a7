"""Signs that an evaluation is too kind, or that a score misleads, each with what to do about it.

After the checks of AutoAttack (Croce & Hein, ICML 2020), Carlini et al. (arXiv 1902.06705) and Pintor et al.
(arXiv 2106.09947). None firing is no proof of a good evaluation.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from softrisk_evaluation.report import AttackResult, FalseAlarms, Proportion, RedFlag

FEW: Final = 30
"""Successful attacks below which a true-positive rate says little: its 95 % interval can be 0.38 wide."""

_BATCH: Final = 256


def zero_gradients(model: nn.Module, inputs: NDArray[np.float32], labels: NDArray[np.int64]) -> Proportion:
    """Share of inputs at which the gradient of the cross entropy is exactly zero in float32.

    Args:
        model: Maps (B, C, H, W) to logits.
        inputs: Shape (N, C, H, W), N ≥ 1.
        labels: True classes, shape (N,).
    """
    zeros = 0
    for start in range(0, len(inputs), _BATCH):
        batch = torch.from_numpy(inputs[start : start + _BATCH]).requires_grad_()
        loss = cross_entropy(model(batch), torch.from_numpy(labels[start : start + _BATCH]), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, batch)
        zeros += int((gradient.flatten(1).abs().amax(dim=1) == 0).sum())
    return Proportion.of(zeros, len(inputs))


def red_flags(
    attacks: Sequence[AttackResult], zeros: Proportion | None, false_alarms: Sequence[FalseAlarms]
) -> tuple[RedFlag, ...]:
    """All signs found in the results of an evaluation.

    Args:
        attacks: All on the same rows.
        zeros: From `zero_gradients`; None if nothing was attacked.
        false_alarms: On clean inputs.
    """
    return (
        *_outside_the_law(false_alarms),
        *_single_step_stronger(attacks),
        *_zero_gradients(zeros),
        *_accuracy_rises(attacks),
        *_score_misleads(attacks),
        *_few_successes(attacks),
    )


def _outside_the_law(false_alarms: Sequence[FalseAlarms]) -> list[RedFlag]:
    # Both guarantees of a level read the same ranks, so one of them speaks for both.
    return [
        RedFlag(
            finding=f"{row.realised.rate:.1%} of the clean images are flagged at α = {row.alpha:g}, the law allows "
            f"{row.law.low:.1%} to {row.law.high:.1%}",
            advice="one time in twenty this is chance; otherwise the test data are not like the calibration data "
            "(recalibrate with softrisk calibrate on data like your traffic), the calibration rows were not held out, "
            "or many scores tie",
        )
        for row in false_alarms
        if row.guarantee == "marginal" and not row.law.low <= row.realised.rate <= row.law.high
    ]


def _single_step_stronger(attacks: Sequence[AttackResult]) -> list[RedFlag]:
    single = {attack.epsilon: attack for attack in attacks if attack.name == "FGSM"}
    iterated = {attack.epsilon: attack for attack in attacks if attack.name == "PGD"}
    return [
        RedFlag(
            finding=f"{single[epsilon].label} leaves {single[epsilon].robust.rate:.2%} right, "
            f"{iterated[epsilon].label} {iterated[epsilon].robust.rate:.2%}: one step beats many",
            advice="gradients are masked or PGD is too weak: raise --steps and --restarts, and do not trust the "
            "robust accuracy",
        )
        for epsilon in sorted(single.keys() & iterated.keys())
        if single[epsilon].robust.successes < iterated[epsilon].robust.successes
    ]


def _zero_gradients(zeros: Proportion | None) -> list[RedFlag]:
    if zeros is None or not zeros.successes:
        return []
    return [
        RedFlag(
            finding=f"the input gradient is exactly zero at {zeros.rate:.2%} of the attacked images",
            advice="attacks by gradient cannot move from there, so the robust accuracy is an upper bound: the model "
            "is over-confident in float32 or its gradients are masked",
        )
    ]


def _accuracy_rises(attacks: Sequence[AttackResult]) -> list[RedFlag]:
    flags = []
    for name in ("FGSM", "PGD"):
        family = sorted((attack for attack in attacks if attack.name == name), key=lambda attack: attack.epsilon)
        for smaller, larger in pairwise(family):
            if larger.robust.successes > smaller.robust.successes:
                flags.append(
                    RedFlag(
                        finding=f"{larger.label} leaves {larger.robust.rate:.2%} right, more than {smaller.label} "
                        f"with {smaller.robust.rate:.2%}",
                        advice="a larger ball holds the smaller one, so the attack does not converge: raise --steps "
                        "and --restarts",
                    )
                )
    return flags


def _score_misleads(attacks: Sequence[AttackResult]) -> list[RedFlag]:
    flags = []
    for attack in attacks:
        risk = attack.on_successful[0]
        if risk.auroc is not None and risk.auroc < 0.5:
            flags.append(
                RedFlag(
                    finding=f"the risk score ranks {attack.label} below clean images: AUROC {risk.auroc:.3f}",
                    advice="the attack makes the model more certain than clean images do; the flag does not protect "
                    "against it: calibrate on another score",
                )
            )
    return flags


def _few_successes(attacks: Sequence[AttackResult]) -> list[RedFlag]:
    return [
        RedFlag(
            finding=f"{attack.label} has only {attack.successful} successful attacks",
            advice="detection figures on them say little: attack more images (--limit) or raise --epsilon",
        )
        for attack in attacks
        if attack.successful < FEW
    ]
