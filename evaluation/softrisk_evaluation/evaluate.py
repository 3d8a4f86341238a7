"""The evaluation itself: from a bundle and test data to a report and what it was made from.

The checkpoint behind the bundle, if there is one, lends its gradients to the attacks and nothing else. Every label,
score, rank and flag comes from the bundle's `model.onnx`, the artifact that is served.
"""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from rich.progress import Progress

from softrisk_core.bundle import MODEL, Bundle, file_entry
from softrisk_core.manifest import Manifest
from softrisk_evaluation.adaptive import Target, attack_with_knowledge
from softrisk_evaluation.artifact import Answers, Artifact
from softrisk_evaluation.detection import FALSE_ALARMS
from softrisk_evaluation.errors import EvaluationError
from softrisk_evaluation.examples import Examples, choose_examples
from softrisk_evaluation.false_alarms import Split, realised, resplit
from softrisk_evaluation.levels import score_limits
from softrisk_evaluation.published import published_scores
from softrisk_evaluation.red_flags import checks, implied_classifiers
from softrisk_evaluation.report import DataFacts, Proportion, Report, Settings, Soundness, Subject
from softrisk_evaluation.subject import CleanData, check_same_classifier, check_same_features, clean_data
from softrisk_evaluation.under_attack import Attacked, check_attacks, planned_attacks, run_one, summarise, worst_case
from softrisk_training.checkpoint import build_model, load_checkpoint, tool_versions


@dataclass(frozen=True)
class Evaluation:
    """A report with the answers it was made from.

    Attributes:
        report: What is written to `report.json`.
        test: All clean test inputs.
        clean: Answers about them.
        chosen: Which of them were attacked: ascending positions in `test`, shape (k,).
        attacked: The attacks, in the order of the report; empty without a checkpoint.
        knowing: Attacks that know the score, on the same inputs; empty if not asked for.
        splits: The false-alarm law on random splits; empty if not asked for.
        manifest: Of the bundle.
        examples: A few inputs to look at.
    """

    report: Report
    test: CleanData
    clean: Answers
    chosen: NDArray[np.int64]
    attacked: tuple[Attacked, ...]
    knowing: tuple[Attacked, ...]
    splits: tuple[Split, ...]
    manifest: Manifest
    examples: Examples


def evaluate(
    bundle: Bundle, checkpoint_path: Path | None, location: str | None, settings: Settings, progress: Progress
) -> Evaluation:
    """Attack a bundle's classifier and measure its scores and flags.

    Args:
        bundle: What is served.
        checkpoint_path: The checkpoint it was exported from; without it nothing is attacked.
        location: Test data for `load_data`; None for the checkpoint's test rows.
        settings: Attacks, seed and sizes.
        progress: Gets one task for each part of the work.

    Raises:
        EvaluationError: If bundle, checkpoint and data do not belong together, or there are no test data.
        SoftriskError: If one of them cannot be read.
    """
    attacks = planned_attacks(settings)
    grouping = bundle.manifest.grouping
    if settings.adaptive and checkpoint_path is None:
        raise EvaluationError("adaptive attacks need gradients, and a bundle brings none: give its --checkpoint")
    checkpoint = None if checkpoint_path is None else load_checkpoint(checkpoint_path)
    test = clean_data(bundle, checkpoint, checkpoint_path, location)
    artifact = Artifact(bundle)
    model = difference = None
    if checkpoint is not None:
        model = build_model(checkpoint)
        difference = check_same_classifier(model, artifact, test.inputs, bundle.manifest.parity.tolerance)

    task = progress.add_task("clean test images", total=len(test.inputs))
    published = published_scores(artifact, test.selection)
    clean = artifact.answer(test.inputs, published, lambda done: progress.advance(task, done))
    chosen = _chosen(len(test.rows), settings) if model else np.empty(0, np.int64)
    inputs, labels = test.inputs[chosen], test.labels[chosen]
    attacked: tuple[Attacked, ...] = ()
    soundness: tuple[Soundness, ...] = ()
    adaptive, knowing = None, tuple[Attacked, ...]()
    if model is not None:
        attacked = tuple(
            run_one(attack, model, artifact, inputs, labels, clean.label[chosen], published, settings.seed, progress)
            for attack in attacks
        )
        soundness = check_attacks(model, inputs, labels, attacked, settings, progress)
        if settings.adaptive:
            score = bundle.score()
            check_same_features(score, model, artifact, test.inputs)
            limits = score_limits(bundle.calibration().scores, grouping, bundle.manifest.calibration.alpha)
            adaptive, knowing = attack_with_knowledge(
                Target(score, clean, _bank(test, chosen), grouping, limits),
                model,
                artifact,
                inputs,
                labels,
                clean.select(chosen),
                attacked,
                settings,
                progress,
            )
    calibration = bundle.manifest.calibration
    splits = _resplit(bundle, clean, settings, progress) if settings.resplits else ()

    false_alarms = realised(clean, grouping, sorted({*FALSE_ALARMS, calibration.alpha}))
    results = tuple(summarise(each, clean, chosen, grouping) for each in attacked)
    standing = worst_case(attacked)
    report = Report(
        subject=Subject(
            name=bundle.manifest.name,
            version=bundle.manifest.version,
            model_sha256=bundle.manifest.files[MODEL].sha256,
            checkpoint_sha256=None if checkpoint_path is None else file_entry(checkpoint_path).sha256,
            nonconformity=str(bundle.manifest.nonconformity),
            calibration_id=calibration.id,
            calibration_rows=calibration.n,
            logits_difference=difference,
        ),
        settings=settings,
        data=DataFacts(
            source=test.source, rows=len(test.rows), dropped=test.dropped, training_known=test.training_known
        ),
        clean_accuracy=Proportion.where(clean.label == test.labels),
        attacks=results,
        worst_case=standing,
        adaptive=adaptive,
        soundness=soundness,
        false_alarms=false_alarms,
        resplits=tuple(split.summary for split in splits),
        checks=(*checks(results, soundness, false_alarms), *implied_classifiers(adaptive, standing)),
        versions={
            **tool_versions(),
            "onnxruntime": onnxruntime.__version__,
            "adversarial-robustness-toolbox": version("adversarial-robustness-toolbox"),
        },
    )
    examples = choose_examples(artifact, grouping, test, clean, chosen, attacked)
    return Evaluation(report, test, clean, chosen, attacked, knowing, splits, bundle.manifest, examples)


def _bank(test: CleanData, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """Clean inputs that are not attacked, for others to mimic; all of them if every test input is."""
    if test.selection is not None:
        return test.selection
    rest = np.delete(test.inputs, chosen, axis=0)
    return rest if len(rest) else test.inputs


def _chosen(rows: int, settings: Settings) -> NDArray[np.int64]:
    """Positions of the test rows that are attacked."""
    shuffled = np.random.default_rng(settings.seed).permutation(rows)
    return np.sort(shuffled[: settings.limit])


def _resplit(bundle: Bundle, clean: Answers, settings: Settings, progress: Progress) -> tuple[Split, ...]:
    task = progress.add_task("random splits", total=settings.resplits)
    return resplit(
        bundle.calibration().scores,
        bundle.manifest.grouping,
        clean,
        FALSE_ALARMS,
        splits=settings.resplits,
        seed=settings.seed,
        advance=lambda done: progress.advance(task, done),
    )
