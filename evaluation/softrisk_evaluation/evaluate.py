"""The evaluation itself: from a bundle, its checkpoint and test data to a report and what it was made from.

The checkpoint lends its gradients to the attacks and nothing else. Every label, score, rank and flag comes from the
bundle's `model.onnx`, the artifact that is served.
"""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from rich.progress import Progress
from torch import nn

from softrisk_attacks.standard import Attack, fgsm, pgd, run_attack
from softrisk_core.bundle import MODEL, Bundle, file_entry
from softrisk_evaluation.artifact import Answers, Artifact
from softrisk_evaluation.detection import FALSE_ALARMS, detect
from softrisk_evaluation.false_alarms import Split, realised, resplit
from softrisk_evaluation.red_flags import red_flags, zero_gradients
from softrisk_evaluation.report import AttackResult, DataFacts, Proportion, Report, Settings, Subject, WorstCase
from softrisk_evaluation.subject import CleanData, check_same_classifier, clean_data
from softrisk_training.checkpoint import build_model, load_checkpoint, tool_versions


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


@dataclass(frozen=True)
class Evaluation:
    """A report with the answers it was made from.

    Attributes:
        report: What is written to `report.json`.
        test: All clean test inputs.
        clean: Answers about them.
        chosen: Which of them were attacked: ascending positions in `test`, shape (k,).
        attacked: The attacks, in the order of the report.
        splits: The false-alarm law on random splits; empty if not asked for.
    """

    report: Report
    test: CleanData
    clean: Answers
    chosen: NDArray[np.int64]
    attacked: tuple[Attacked, ...]
    splits: tuple[Split, ...]


def evaluate(
    bundle: Bundle, checkpoint_path: Path, location: str | None, settings: Settings, progress: Progress
) -> Evaluation:
    """Attack a bundle's classifier and measure its scores and flags.

    Args:
        bundle: What is served.
        checkpoint_path: The checkpoint it was exported from.
        location: Test data for `load_data`; None for the checkpoint's test rows.
        settings: Attacks, seed and sizes.
        progress: Gets one task for each part of the work.

    Raises:
        EvaluationError: If bundle, checkpoint and data do not belong together.
        SoftriskError: If one of them cannot be read.
    """
    attacks = _attacks(settings)
    checkpoint = load_checkpoint(checkpoint_path)
    test = clean_data(bundle, checkpoint, location)
    model, artifact = build_model(checkpoint), Artifact(bundle)
    difference = check_same_classifier(model, artifact, test.inputs, bundle.manifest.parity.tolerance)

    clean = _answer(artifact, test.inputs, progress, "clean test images")
    chosen = _chosen(len(test.rows), settings)
    inputs, labels = test.inputs[chosen], test.labels[chosen]
    attacked = tuple(
        _attack(model, artifact, inputs, labels, clean.label[chosen], attack, settings.seed, progress)
        for attack in attacks
    )
    calibration = bundle.manifest.calibration
    splits = _resplit(bundle, clean, settings, progress) if settings.resplits else ()

    results = tuple(_result(each, clean, calibration.n) for each in attacked)
    zeros = zero_gradients(model, inputs, labels)
    report = Report(
        subject=Subject(
            name=bundle.manifest.name,
            version=bundle.manifest.version,
            model_sha256=bundle.manifest.files[MODEL].sha256,
            checkpoint_sha256=file_entry(checkpoint_path).sha256,
            nonconformity=str(bundle.manifest.nonconformity),
            calibration_id=calibration.id,
            calibration_rows=calibration.n,
            logits_difference=difference,
        ),
        settings=settings,
        data=DataFacts(source=test.source, rows=len(test.rows), dropped=test.dropped),
        clean_accuracy=_proportion(clean.label == test.labels),
        attacks=results,
        worst_case=_worst_case(attacked),
        zero_gradients=zeros,
        false_alarms=realised(clean.rank, calibration.n, sorted({*FALSE_ALARMS, calibration.alpha})),
        resplits=tuple(split.summary for split in splits),
        red_flags=red_flags(results, zeros),
        versions={
            **tool_versions(),
            "onnxruntime": onnxruntime.__version__,
            "adversarial-robustness-toolbox": version("adversarial-robustness-toolbox"),
        },
    )
    return Evaluation(report, test, clean, chosen, attacked, splits)


def _attacks(settings: Settings) -> list[Attack]:
    return [
        attack
        for epsilon in settings.epsilons
        for attack in (fgsm(epsilon), pgd(epsilon, settings.steps, settings.restarts))
    ]


def _chosen(rows: int, settings: Settings) -> NDArray[np.int64]:
    """Positions of the test rows that are attacked."""
    shuffled = np.random.default_rng(settings.seed).permutation(rows)
    return np.sort(shuffled[: settings.limit])


def _answer(artifact: Artifact, inputs: NDArray[np.float32], progress: Progress, what: str) -> Answers:
    task = progress.add_task(what, total=len(inputs))
    return artifact.answer(inputs, lambda done: progress.advance(task, done))


def _attack(
    model: nn.Module,
    artifact: Artifact,
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    clean_labels: NDArray[np.int64],
    attack: Attack,
    seed: int,
    progress: Progress,
) -> Attacked:
    task = progress.add_task(attack.label, total=len(inputs))
    adversarial = run_attack(
        model,
        inputs,
        labels,
        attack,
        seed=seed,
        on_progress=lambda done, total: progress.update(task, completed=done, total=total),
    )
    answers = artifact.answer(adversarial, lambda _: None)
    was_right, is_right = clean_labels == labels, answers.label == labels
    return Attacked(attack, answers, right=was_right & is_right, successful=was_right & ~is_right)


def _resplit(bundle: Bundle, clean: Answers, settings: Settings, progress: Progress) -> tuple[Split, ...]:
    task = progress.add_task("random splits", total=settings.resplits)
    return resplit(
        bundle.calibration().scores,
        clean.nonconformity,
        FALSE_ALARMS,
        splits=settings.resplits,
        seed=settings.seed,
        advance=lambda done: progress.advance(task, done),
    )


def _result(attacked: Attacked, clean: Answers, n: int) -> AttackResult:
    attack = attacked.attack
    return AttackResult(
        label=attack.label,
        name=attack.name,
        epsilon=attack.epsilon,
        steps=attack.steps,
        step_size=attack.step_size,
        restarts=attack.restarts,
        robust=_proportion(attacked.right),
        successful=int(attacked.successful.sum()),
        on_successful=detect(clean, attacked.answers.select(attacked.successful), n),
        on_all=detect(clean, attacked.answers, n),
    )


def _worst_case(attacked: tuple[Attacked, ...]) -> tuple[WorstCase, ...]:
    by_epsilon: dict[float, NDArray[np.bool_]] = {}
    for each in attacked:
        epsilon = each.attack.epsilon
        by_epsilon[epsilon] = each.right & by_epsilon.get(epsilon, np.True_)
    return tuple(WorstCase(epsilon=epsilon, robust=_proportion(right)) for epsilon, right in sorted(by_epsilon.items()))


def _proportion(true: NDArray[np.bool_]) -> Proportion:
    return Proportion.of(int(true.sum()), true.size)
