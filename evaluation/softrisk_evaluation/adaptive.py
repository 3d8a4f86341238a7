"""What is left of the flag when the attacker knows model, score and calibration, and has the gradients of all three."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn

from softrisk_attacks.adaptive import AdaptiveAttack, AlarmFlooding, LogitMimicry, Scoring, SelectivePGD, WeightedPGD
from softrisk_core.conformal import marginal_rank
from softrisk_core.scores.score import Score
from softrisk_evaluation.artifact import Answers, Artifact
from softrisk_evaluation.detection import FALSE_ALARMS
from softrisk_evaluation.differentiable import differentiable
from softrisk_evaluation.report import (
    Adaptive,
    AdaptiveResult,
    Flooded,
    Proportion,
    Settings,
    Undetected,
    WithRejection,
)
from softrisk_evaluation.under_attack import Attacked, run_one

WEIGHTS: Final = (0.1, 1.0, 10.0)
"""λ of the sweep, for a score that is divided by the interquartile range of its clean values."""

BANK: Final = 2000
"""Clean inputs whose logits are mimicked, at most."""


@dataclass(frozen=True)
class Target:
    """What the attackers know.

    Attributes:
        score: What is flagged by.
        clean: Answers about clean inputs.
        bank: Clean inputs to mimic, none of them attacked, shape (M, C, H, W).
    """

    score: Score
    clean: Answers
    bank: NDArray[np.float32]


def adaptive_attacks(target: Target, artifact: Artifact, settings: Settings) -> list[AdaptiveAttack]:
    """Evasion in six ways and alarm flooding, at every radius, each with as many steps as APGD takes.

    Raises:
        AttackError: If a setting is out of range.
    """
    scoring = _in_clean_units(target)
    bank = torch.from_numpy(artifact.logits(target.bank[:BANK]))
    steps, restarts = settings.steps * settings.restarts, 2
    return [
        attack
        for epsilon in settings.epsilons
        for attack in (
            SelectivePGD(epsilon, scoring, steps, restarts),
            SelectivePGD(epsilon, scoring, steps, restarts, orthogonal=True),
            *(WeightedPGD(epsilon, scoring, steps, restarts, weight=weight) for weight in WEIGHTS),
            LogitMimicry(epsilon, scoring, steps, restarts, bank=bank),
            AlarmFlooding(epsilon, scoring, steps, restarts),
        )
    ]


def attack_with_knowledge(
    target: Target,
    model: nn.Module,
    artifact: Artifact,
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    before: Answers,
    others: Sequence[Attacked],
    settings: Settings,
    n: int,
    progress: Progress,
) -> tuple[Adaptive, tuple[Attacked, ...]]:
    """Run every adaptive attack and judge it by the artifact's labels and flags.

    Args:
        target: What the attackers know.
        model: Lends its gradients.
        artifact: The same classifier as it is served.
        inputs: Clean, shape (k, C, H, W), float32 in [0, 1].
        labels: True classes, shape (k,).
        before: What the artifact says about the clean inputs.
        others: Attacks that do not know the score, on the same inputs; they count in the worst case.
        settings: Radii, steps and seed.
        n: Number of calibration scores.
        progress: Gets a task for each attack.

    Returns:
        What the report says, and what the artifact said.
    """
    attacked = tuple(
        run_one(attack, model, artifact, inputs, labels, before.label, (), settings.seed, progress)
        for attack in adaptive_attacks(target, artifact, settings)
    )
    limits = {alpha: marginal_rank(alpha, n) for alpha in FALSE_ALARMS if marginal_rank(alpha, n)}
    honest = before.label == labels
    evading = [each for each in attacked if not isinstance(each.attack, AlarmFlooding)]
    flooding = [each for each in attacked if isinstance(each.attack, AlarmFlooding)]
    findings = Adaptive(
        attacks=tuple(_result(each, limits) for each in evading),
        worst_case=tuple(
            WithRejection(
                epsilon=epsilon,
                alpha=alpha,
                clean=Proportion.where(honest & (before.rank > limit)),
                robust=Proportion.where(_stands([*others, *evading], epsilon, limit, honest & (before.rank > limit))),
            )
            for epsilon in settings.epsilons
            for alpha, limit in limits.items()
        ),
        flooding=tuple(
            Flooded(
                label=each.attack.label,
                epsilon=each.attack.epsilon,
                alpha=alpha,
                before=Proportion.where(before.rank[honest] <= limit),
                after=Proportion.where(((each.answers.rank <= limit) & each.right)[honest]),
            )
            for each in flooding
            for alpha, limit in limits.items()
            if honest.any()
        ),
    )
    return findings, attacked


def _in_clean_units(target: Target) -> Scoring:
    scoring = differentiable(target.score)
    low, high = np.quantile(target.clean.nonconformity.astype(np.float64), (0.25, 0.75))
    unit = max(float(high - low), float(np.finfo(np.float32).tiny))

    def scaled(logits: Tensor) -> Tensor:
        return scoring(logits) / unit

    return scaled


def _result(attacked: Attacked, limits: dict[float, int]) -> AdaptiveResult:
    wrong, rank = attacked.successful, attacked.answers.rank
    return AdaptiveResult(
        label=attacked.attack.label,
        name=attacked.attack.name,
        epsilon=attacked.attack.epsilon,
        settings=attacked.attack.settings,
        successful=int(wrong.sum()),
        undetected=tuple(
            Undetected(
                alpha=alpha,
                of_all=Proportion.where(wrong & (rank > limit)),
                of_successful=Proportion.where(rank[wrong] > limit) if wrong.any() else None,
            )
            for alpha, limit in limits.items()
        ),
    )


def _stands(attacks: Sequence[Attacked], epsilon: float, limit: int, accepted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Accepted and right without an attack, and under each of this radius right or flagged."""
    stands = accepted
    for each in attacks:
        if each.attack.epsilon == epsilon:
            stands = stands & ~(each.successful & (each.answers.rank > limit))
    return stands
