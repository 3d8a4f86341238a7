"""What is left of the flag when the attacker knows model, score and calibration, and has the gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn

from softrisk_attacks.adaptive import (
    AdaptiveAttack,
    AlarmFlooding,
    Classifier,
    LogitMimicry,
    QuietPGD,
    Scoring,
    SelectivePGD,
    TargetedSelectivePGD,
    WeightedPGD,
    expected,
)
from softrisk_core.groups import Grouping
from softrisk_core.probes import Noise
from softrisk_core.scores.combined import Combination, GatedCombination
from softrisk_core.scores.score import Score
from softrisk_evaluation.artifact import Answers, Artifact
from softrisk_evaluation.detection import FALSE_ALARMS
from softrisk_evaluation.differentiable import differentiable, with_other_noise
from softrisk_evaluation.levels import flagged
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
"""λ of the sweep, for a score that is divided by the interquartile range of its clean values, the jumps of a gate taken
out."""

TARGETS: Final = 3
"""Wrong classes that are aimed at, at most."""

SHARES: Final = (0.1, 0.3, 1.0)
"""Of the pixels that someone moves who does not want to be seen in the image."""

DRAWS: Final = 4
"""Noises over which an attacker takes the mean who does not know the stored one."""

BANK: Final = 2000
"""Clean inputs whose logits are mimicked, at most."""


@dataclass(frozen=True)
class Target:
    """What the attackers know.

    Attributes:
        score: What is flagged by.
        clean: Answers about clean inputs.
        bank: Clean inputs to mimic, none of them attacked, shape (M, C, H, W).
        grouping: Of the calibration.
        limits: The largest score that is not flagged, for each predicted class, shape (classes,).
    """

    score: Score
    clean: Answers
    bank: NDArray[np.float32]
    grouping: Grouping
    limits: NDArray[np.float32]


def adaptive_attacks(target: Target, artifact: Artifact, settings: Settings) -> list[AdaptiveAttack]:
    """Evasion in many ways and alarm flooding, at every radius, each run with as many steps as APGD takes.

    A score that looks at the image is also attacked by someone who touches few pixels of it, one with a gate by way of
    what the gate takes for ordinary, and one that probes with stored noise by someone who does not know it.

    Raises:
        AttackError: If a setting is out of range.
    """
    scoring = _beyond_limits(target, differentiable(target.score))
    logits = torch.from_numpy(artifact.logits(target.bank[:BANK]))
    targets = min(TARGETS, logits.shape[1] - 1)
    steps, restarts = settings.steps * settings.restarts, 2
    surrogates = _surrogates(target, settings.seed)
    shares = SHARES if isinstance(target.score, Combination | GatedCombination) else ()
    return [
        attack
        for epsilon in settings.epsilons
        for attack in (
            SelectivePGD(epsilon, scoring, steps, restarts),
            SelectivePGD(epsilon, scoring, steps, restarts, orthogonal=True),
            TargetedSelectivePGD(epsilon, scoring, steps, 1, targets=targets),
            *(WeightedPGD(epsilon, scoring, steps, restarts, weight=weight) for weight in WEIGHTS),
            *(QuietPGD(epsilon, scoring, steps, restarts, share=share) for share in shares),
            LogitMimicry(epsilon, scoring, steps, restarts, bank=logits),
            *(SelectivePGD(epsilon, each, steps, restarts, surrogate=name) for name, each in surrogates.items()),
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
        progress: Gets a task for each attack.

    Returns:
        What the report says, and what the artifact said.
    """
    attacked = tuple(
        run_one(attack, model, artifact, inputs, labels, before.label, (), settings.seed, progress)
        for attack in adaptive_attacks(target, artifact, settings)
    )
    flags_before = _flags(before, target.grouping)
    flags = {each.attack.label: _flags(each.answers, target.grouping) for each in (*others, *attacked)}
    honest = before.label == labels
    evading = [each for each in attacked if not isinstance(each.attack, AlarmFlooding)]
    flooding = [each for each in attacked if isinstance(each.attack, AlarmFlooding)]
    findings = Adaptive(
        attacks=tuple(_result(each, flags[each.attack.label]) for each in evading),
        worst_case=tuple(
            WithRejection(
                epsilon=epsilon,
                alpha=alpha,
                clean=Proportion.where(honest & ~alarms),
                robust=Proportion.where(
                    honest
                    & ~alarms
                    & ~_past_flag([*others, *evading], epsilon, {label: found[alpha] for label, found in flags.items()})
                ),
            )
            for epsilon in settings.epsilons
            for alpha, alarms in flags_before.items()
        ),
        flooding=tuple(
            Flooded(
                label=each.attack.label,
                epsilon=each.attack.epsilon,
                alpha=alpha,
                before=Proportion.where(alarms[honest]),
                after=Proportion.where((flags[each.attack.label][alpha] & each.right)[honest]),
            )
            for each in flooding
            for alpha, alarms in flags_before.items()
            if honest.any()
        ),
    )
    return findings, attacked


def _beyond_limits(target: Target, scoring: Scoring) -> Scoring:
    """By how much scores exceed what passes for the predicted class, in units of their spread on clean data.

    Lower scores need not look more ordinary where classes have calibrations of their own; what is not above 0 passes.
    """
    low, high = np.quantile(_without_jumps(target.score, target.clean.nonconformity.astype(np.float64)), (0.25, 0.75))
    unit = max(float(high - low), float(np.finfo(np.float32).tiny))
    limits = torch.from_numpy(target.limits)

    def beyond(classifier: Classifier, points: Tensor, logits: Tensor) -> Tensor:
        return (scoring(classifier, points, logits) - limits.to(logits.device)[logits.argmax(dim=1)]) / unit

    return beyond


def _without_jumps(score: Score, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores as their branches give them, shape (N,): the jump at a gate is no spread, and no slope crosses it."""
    if not isinstance(score, GatedCombination):
        return values
    return values - np.where(score.was_probed(values), 0, np.sign(values)) * float(score.shift)


def _surrogates(target: Target, seed: int) -> dict[str, Scoring]:
    """What an attacker may lower in place of the score, by name."""
    score = target.score
    found: dict[str, Scoring] = {}
    if isinstance(score, GatedCombination):
        if np.isfinite(score.limits[0]):
            # The slope of what is probed does not lead to where nothing is.
            found["the gate"] = differentiable(score.gate)
        if any(isinstance(probe, Noise) for probe in score.probes):
            # 0 is the seed of the noise that is stored.
            seeds = range(1 + seed * DRAWS, 1 + (seed + 1) * DRAWS)
            mean = expected([differentiable(with_other_noise(score, s)) for s in seeds])
            found["the mean over noise (EOT)"] = _beyond_limits(target, mean)
    return found


def _flags(answers: Answers, grouping: Grouping) -> dict[float, NDArray[np.bool_]]:
    """What the bundle flags, by α, for all that its calibration is large enough for."""
    found = {alpha: flagged(answers, grouping, alpha) for alpha in FALSE_ALARMS}
    return {alpha: flags for alpha, flags in found.items() if flags is not None}


def _result(attacked: Attacked, flags: dict[float, NDArray[np.bool_]]) -> AdaptiveResult:
    wrong = attacked.successful
    return AdaptiveResult(
        label=attacked.attack.label,
        name=attacked.attack.name,
        epsilon=attacked.attack.epsilon,
        settings=attacked.attack.settings,
        successful=int(wrong.sum()),
        undetected=tuple(
            Undetected(
                alpha=alpha,
                of_all=Proportion.where(wrong & ~alarms),
                of_successful=Proportion.where(~alarms[wrong]) if wrong.any() else None,
            )
            for alpha, alarms in flags.items()
        ),
    )


def _past_flag(
    attacks: Sequence[Attacked], epsilon: float, flags: Mapping[str, NDArray[np.bool_]]
) -> NDArray[np.bool_]:
    """Wrong and not flagged under one of the attacks of this radius, by the flags under each."""
    past = [each.successful & ~flags[each.attack.label] for each in attacks if each.attack.epsilon == epsilon]
    anywhere: NDArray[np.bool_] = np.any(past, axis=0)
    return anywhere
