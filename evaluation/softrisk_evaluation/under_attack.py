"""The attacks of an evaluation: crafted with the checkpoint's gradients, judged by the artifact's answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress, TaskID
from torch import nn

from softrisk_attacks.apgd import APGD
from softrisk_attacks.attack import Attack, Outcome, run_attack
from softrisk_attacks.standard import fgsm, pgd
from softrisk_core.groups import Grouping
from softrisk_core.scores.score import LogitScore
from softrisk_evaluation.artifact import Answers, Artifact
from softrisk_evaluation.detection import detect
from softrisk_evaluation.report import AttackResult, Proportion, Settings, Soundness, WorstCase
from softrisk_evaluation.soundness import measure_soundness


@dataclass(frozen=True)
class Attacked:
    """One attack's inputs as the artifact sees them.

    Attributes:
        attack: What was run.
        outcome: What came of it, as the model sees it whose gradients were used.
        answers: About the k attacked inputs.
        right: Right on the clean and on the attacked input, shape (k,).
        successful: Right on the clean input, wrong on the attacked one, shape (k,).
    """

    attack: Attack
    outcome: Outcome
    answers: Answers
    right: NDArray[np.bool_]
    successful: NDArray[np.bool_]


def planned_attacks(settings: Settings) -> list[Attack]:
    """FGSM, PGD and APGD at every radius.

    APGD climbs the margin, so that two objectives are tried, with as many steps in its one run as PGD takes in all.

    Raises:
        AttackError: If a setting is out of range.
    """
    return [
        attack
        for epsilon in settings.epsilons
        for attack in (
            fgsm(epsilon),
            pgd(epsilon, settings.steps, settings.restarts),
            APGD(epsilon, "margin", steps=settings.steps * settings.restarts),
        )
    ]


def run_one(
    attack: Attack,
    model: nn.Module,
    artifact: Artifact,
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    clean_labels: NDArray[np.int64],
    published: Sequence[LogitScore],
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
        published: Scores to compare with.
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
    answers = artifact.answer(outcome.inputs, published)
    was_right, is_right = clean_labels == labels, answers.label == labels
    return Attacked(attack, outcome, answers, right=was_right & is_right, successful=was_right & ~is_right)


def summarise(attacked: Attacked, clean: Answers, chosen: NDArray[np.int64], grouping: Grouping) -> AttackResult:
    """What the report says about one attack.

    Args:
        attacked: What came of it.
        clean: Answers about all clean test inputs.
        chosen: Which of them were attacked, shape (k,).
        grouping: Of the calibration.
    """
    attack, successful = attacked.attack, attacked.successful
    originals = clean.select(chosen)
    return AttackResult(
        label=attack.label,
        name=attack.name,
        family=attack.family,
        epsilon=attack.epsilon,
        settings=attack.settings,
        robust=Proportion.where(attacked.right),
        successful=int(successful.sum()),
        on_successful=detect(clean, originals.select(successful), attacked.answers.select(successful), grouping),
        on_all=detect(clean, originals, attacked.answers, grouping),
    )


def check_attacks(
    model: nn.Module,
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    attacked: tuple[Attacked, ...],
    settings: Settings,
    progress: Progress,
) -> tuple[Soundness, ...]:
    """Measure at every radius whether the attacks can be believed.

    Args:
        model: Whose gradients they used.
        inputs: Clean, shape (k, C, H, W), float32 in [0, 1].
        labels: True classes, shape (k,).
        attacked: What came of the attacks on them.
        settings: Radii, seed and on how many images.
        progress: Gets a task for each radius.

    Returns:
        Empty if it was asked for no images.
    """
    if settings.sanity_images == 0:
        return ()
    outcomes = [(each.attack, each.outcome) for each in attacked]
    measured = []
    for epsilon in settings.epsilons:
        task = progress.add_task(f"checks of the attacks ε={epsilon:.4g}", total=None)

        def show(done: int, total: int, task: TaskID = task) -> None:
            progress.update(task, completed=done, total=total)

        measured.append(
            measure_soundness(
                model,
                inputs,
                labels,
                outcomes,
                epsilon=epsilon,
                seed=settings.seed,
                limit=settings.sanity_images,
                on_progress=show,
            )
        )
    return tuple(measured)


def strongest(attacked: Sequence[Attacked]) -> Attacked | None:
    """The attack with the most successes, of which a report shows pictures; None if no attack had any."""
    most = max(attacked, key=lambda each: int(each.successful.sum()), default=None)
    return most if most is not None and most.successful.any() else None


def worst_case(attacked: tuple[Attacked, ...]) -> tuple[WorstCase, ...]:
    """For each radius the inputs that no attack of it fools."""
    by_epsilon: dict[float, NDArray[np.bool_]] = {}
    for each in attacked:
        epsilon = each.attack.epsilon
        by_epsilon[epsilon] = each.right & by_epsilon.get(epsilon, np.True_)
    return tuple(
        WorstCase(epsilon=epsilon, robust=Proportion.where(right)) for epsilon, right in sorted(by_epsilon.items())
    )
