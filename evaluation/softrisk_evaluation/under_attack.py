"""The attacks of an evaluation: crafted with the checkpoint's gradients, judged by the artifact's answers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from torch import nn

from softrisk_attacks.attack import Attack, run_attack
from softrisk_attacks.standard import fgsm, pgd
from softrisk_evaluation.artifact import Answers, Artifact
from softrisk_evaluation.detection import detect
from softrisk_evaluation.report import AttackResult, Proportion, Settings, WorstCase


@dataclass(frozen=True)
class Attacked:
    """One attack's inputs as the artifact sees them.

    Attributes:
        attack: What was run.
        answers: About the k attacked inputs.
        right: Right on the clean and on the attacked input, shape (k,).
        successful: Right on the clean input, wrong on the attacked one, shape (k,).
    """

    attack: Attack
    answers: Answers
    right: NDArray[np.bool_]
    successful: NDArray[np.bool_]


def planned_attacks(settings: Settings) -> list[Attack]:
    """FGSM and PGD at every radius.

    Raises:
        AttackError: If a setting is out of range.
    """
    return [
        attack
        for epsilon in settings.epsilons
        for attack in (fgsm(epsilon), pgd(epsilon, settings.steps, settings.restarts))
    ]


def run_one(
    attack: Attack,
    model: nn.Module,
    artifact: Artifact,
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    clean_labels: NDArray[np.int64],
    seed: int,
    progress: Progress,
) -> Attacked:
    """Attack inputs and ask the artifact about them.

    Args:
        attack: What to run.
        model: Lends its gradients.
        artifact: The same classifier as it is served.
        inputs: Clean, shape (k, C, H, W), float32 in [0, 1].
        labels: True classes, shape (k,).
        clean_labels: What the artifact says about the clean inputs, shape (k,).
        seed: Of the random starts.
        progress: Gets a task.
    """
    task = progress.add_task(attack.label, total=len(inputs))
    outcome = run_attack(
        model,
        inputs,
        labels,
        attack,
        seed=seed,
        on_progress=lambda done, total: progress.update(task, completed=done, total=total),
    )
    answers = artifact.answer(outcome.inputs)
    was_right, is_right = clean_labels == labels, answers.label == labels
    return Attacked(attack, answers, right=was_right & is_right, successful=was_right & ~is_right)


def summarise(attacked: Attacked, clean: Answers, n: int) -> AttackResult:
    """What the report says about one attack.

    Args:
        attacked: What came of it.
        clean: Answers about all clean test inputs.
        n: Number of calibration scores.
    """
    attack = attacked.attack
    return AttackResult(
        label=attack.label,
        name=attack.name,
        epsilon=attack.epsilon,
        steps=attack.steps,
        step_size=attack.step_size,
        restarts=attack.restarts,
        robust=Proportion.where(attacked.right),
        successful=int(attacked.successful.sum()),
        on_successful=detect(clean, attacked.answers.select(attacked.successful), n),
        on_all=detect(clean, attacked.answers, n),
    )


def worst_case(attacked: tuple[Attacked, ...]) -> tuple[WorstCase, ...]:
    """For each radius the inputs that no attack of it fools."""
    by_epsilon: dict[float, NDArray[np.bool_]] = {}
    for each in attacked:
        epsilon = each.attack.epsilon
        by_epsilon[epsilon] = each.right & by_epsilon.get(epsilon, np.True_)
    return tuple(
        WorstCase(epsilon=epsilon, robust=Proportion.where(right)) for epsilon, right in sorted(by_epsilon.items())
    )
