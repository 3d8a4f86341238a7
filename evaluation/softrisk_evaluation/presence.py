"""What a bundle of several inputs is worth on clean test pairs, by which of the inputs are there."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softrisk_core.bundle import Bundle
from softrisk_core.presence import keep_present
from softrisk_core.rows import digest_rows, take_rows
from softrisk_evaluation.artifact import Artifact
from softrisk_evaluation.detection import FALSE_ALARMS
from softrisk_evaluation.errors import EvaluationError
from softrisk_evaluation.false_alarms import realised
from softrisk_evaluation.report import FalseAlarms, Proportion
from softrisk_evaluation.statistics import Bounds
from softrisk_evaluation.tables import Section
from softrisk_training.multimodal.checkpoint import load_multimodal_checkpoint, training_pairs


@dataclass(frozen=True)
class CaseFacts:
    """One presence case on clean test pairs.

    Attributes:
        present: Names of the inputs that are there.
        accuracy: Share of right labels.
        radii: For each radius of the bundle its median over the right ones, ≥ 0; 0 if none is right.
        false_alarms: At both levels of each α that the calibration can serve.
    """

    present: tuple[str, ...]
    accuracy: Proportion
    radii: dict[str, float]
    false_alarms: tuple[FalseAlarms, ...]


def evaluate_cases(
    bundle: Bundle, checkpoint_path: Path | None, advance: Callable[[int], None] = lambda rows: None
) -> tuple[CaseFacts, ...]:
    """Accuracy, radii and false alarms of the artifact in each presence case.

    Args:
        bundle: With several inputs.
        checkpoint_path: The checkpoint it was exported from, whose test pairs are taken.
        advance: Called after each batch with the number of its rows.

    Raises:
        EvaluationError: If there is no checkpoint, it belongs to another model, or the bundle has seen all test pairs.
        SoftriskError: If checkpoint or data cannot be read.
    """
    manifest = bundle.manifest
    if checkpoint_path is None:
        raise EvaluationError(
            f"the inputs {' and '.join(spec.name for spec in manifest.inputs)} are evaluated on the test pairs of a "
            "checkpoint: name the one that the bundle was exported from with --checkpoint"
        )
    checkpoint = load_multimodal_checkpoint(checkpoint_path)
    alike = [(spec.name, spec.instance_shape) for spec in manifest.inputs]
    if alike != [(each.name, each.shape) for each in checkpoint.modalities] or manifest.classes != checkpoint.classes:
        raise EvaluationError(
            f"{checkpoint_path} has other inputs or classes than the bundle: give the one that it was exported from"
        )
    calibration = bundle.calibration()
    if not np.array_equal(checkpoint.digests, calibration.training_rows):
        # With another seed the same recordings are in other pairs, whose digests do not tell that they were heard.
        raise EvaluationError(
            f"{checkpoint_path} was trained on other pairs than the bundle, which may have seen the images or "
            "recordings of these: give the one that it was exported from"
        )
    data, rows = training_pairs(checkpoint, checkpoint_path), checkpoint.splits.test
    inputs, labels = data.rows(rows), data.labels[rows]
    unseen = ~np.isin(digest_rows(*inputs.values()), [*calibration.calibration_rows, *calibration.fit_rows])
    if not unseen.any():
        raise EvaluationError(f"all {len(rows)} test pairs calibrate the bundle: none is left to evaluate it on")
    inputs, labels = take_rows(inputs, unseen), labels[unseen]
    artifact, alphas = Artifact(bundle), sorted({*FALSE_ALARMS, manifest.calibration.alpha})
    radii = () if manifest.radius is None else manifest.radius.outputs
    facts = []
    for case in manifest.cases:
        present = keep_present(inputs, case)
        answers = artifact.answer(present, advance=advance)
        right = answers.label == labels
        values = artifact.outputs(present, radii) if radii else {}
        facts.append(
            CaseFacts(
                present=case,
                accuracy=Proportion.where(right),
                radii={name: float(np.median(values[name][right])) if right.any() else 0.0 for name in radii},
                false_alarms=realised(answers, manifest.grouping, alphas),
            )
        )
    return tuple(facts)


def case_sections(facts: tuple[CaseFacts, ...]) -> list[Section]:
    """The same as tables."""
    cases = [" and ".join(each.present) for each in facts]
    accuracy = Section(
        title="Clean test pairs, by the inputs that are there",
        columns=("inputs", "right", "accuracy", "95 % interval"),
        rows=tuple(
            (case, f"{share.successes} of {share.trials}", f"{share.rate:.2%}", _range(share.interval))
            for case, share in zip(cases, (each.accuracy for each in facts), strict=True)
        ),
    )
    radii = Section(
        title="Radius of the label in ℓ2, median over the pairs that are right",
        columns=("radius", *cases),
        rows=tuple((name, *(f"{each.radii[name]:.3g}" for each in facts)) for name in facts[0].radii),
        note="0 for a single input that is missing.",
    )
    alarms = Section(
        title="False alarms on clean test pairs, by the inputs that are there",
        columns=("inputs, α", "rank ≤", "flagged", "rate", "law"),
        rows=tuple(
            (
                f"{case}, {level.alpha:g} {level.guarantee}",
                str(level.rank_limit),
                f"{level.realised.successes} of {level.realised.trials}",
                f"{level.realised.rate:.2%}",
                _range(level.law),
            )
            for case, each in zip(cases, facts, strict=True)
            for level in each.false_alarms
        ),
        note="Law: central 95 % of the Beta-binomial law for the rate, if test and calibration pairs are exchangeable.",
    )
    return [accuracy, *([radii] if radii.rows else []), alarms]


def _range(bounds: Bounds) -> str:
    return f"{bounds.low:.2%}–{bounds.high:.2%}"
