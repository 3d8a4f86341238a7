"""`report.html`: an evaluation as one page that needs no other file, no network and, but for one sum, no script."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.conformal import p_value
from softrisk_core.manifest import Manifest
from softrisk_evaluation.artifact import Answers
from softrisk_evaluation.base_rate import PREVALENCES, REQUESTS, Alarms, alarms
from softrisk_evaluation.detection import operating_points
from softrisk_evaluation.evaluate import Evaluation
from softrisk_evaluation.examples import View
from softrisk_evaluation.levels import flagged, p_values
from softrisk_evaluation.pictures import amplification, difference, picture, png_uri
from softrisk_evaluation.rendering import render
from softrisk_evaluation.report import Proportion
from softrisk_evaluation.tables import Section, adaptive_sections, on_attacks, sections, unseen
from softrisk_evaluation.under_attack import strongest

RATES: Final = (0.001, 0.01, 0.05)
"""False-alarm rates of the page's table of detection."""

_CLASSES: Final = 20
"""Classes that the page lists; of more it lists those with the most false alarms."""

_BARS: Final = 10
"""Classes whose softmax is shown; of more, the largest few of either view."""


@dataclass(frozen=True)
class ClassAlarms:
    """False alarms on the clean test inputs of one class."""

    name: str
    flagged: Proportion


@dataclass(frozen=True)
class Bar:
    """Softmax of one class, without and under the attack."""

    name: str
    is_truth: bool
    clean: float
    attacked: float | None


@dataclass(frozen=True)
class Depicted:
    """An input of a view with what the bundle says about it."""

    picture: str
    label: str
    p_value: float
    flagged: bool


@dataclass(frozen=True)
class Shown:
    """An example, ready for the page."""

    place: str
    row: int
    truth: str
    clean: Depicted
    attacked: Depicted | None
    difference: str | None
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class BaseRate:
    """The sum for the bundle's own flag.

    Attributes:
        against: The attack that is detected least; None if nothing is known of detection, which then counts as perfect.
        detection: Share of its successes that are flagged.
        rows: For each prevalence.
    """

    against: str | None
    detection: float
    rows: tuple[Alarms, ...]


def to_html(evaluation: Evaluation, folder: Path, figures: Sequence[tuple[str, str]]) -> str:
    """The whole of `report.html`.

    Args:
        evaluation: What was found.
        folder: Where its figures are.
        figures: File name and caption of each.
    """
    examples, classes = evaluation.examples, _class_alarms(evaluation)
    return render(
        "report.html.j2",
        report=evaluation.report,
        facts=_facts(evaluation),
        alpha=evaluation.manifest.calibration.alpha,
        figures={name: (png_uri((folder / name).read_bytes()), caption) for name, caption in figures},
        detection=_detection(evaluation),
        followed=_followed(evaluation),
        classes=classes,
        # The width of the drawn intervals: the largest, and never less than what makes α visible.
        scale=max([evaluation.manifest.calibration.alpha, *(row.flagged.interval.high for row in classes)]),
        class_count=len(evaluation.manifest.classes),
        attack=examples.attack,
        factor=None if examples.attack is None else amplification(examples.attack.epsilon),
        examples=_shown(evaluation),
        base_rate=_base_rate(evaluation),
        requests=REQUESTS,
        tables=sections(evaluation.report),
        adaptive=[] if evaluation.report.adaptive is None else adaptive_sections(evaluation.report.adaptive),
        on_attacks=on_attacks(evaluation.report),
    )


def _facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What is known of the model, its calibration and the data; what is not known is left out."""
    report, manifest = evaluation.report, evaluation.manifest
    model, spec = manifest.model, manifest.inputs[0]
    known = {
        "model": f"{manifest.name}, version {manifest.version}",
        "origin": {"checkpoint": "a checkpoint", "onnx": "an ONNX file"}[model.origin],
        "architecture": model.architecture,
        "weights": None if model.parameters is None else f"{model.parameters:,}",
        "loss": model.loss,
        "precision": model.precision,
        "training data": model.data,
        "input": f"{spec.name}, " + " × ".join(map(str, spec.instance_shape)),
        "classes": str(len(manifest.classes)),
        "score": f"{report.subject.nonconformity} (large is strange)",
        "calibration": f"{manifest.calibration.n:,} clean inputs of {manifest.calibration.data}, "
        f"{manifest.calibration.id}",
        "flag": f"false-alarm rate α = {manifest.calibration.alpha:g}",
        "test data": f"{report.data.rows:,} rows of {report.data.source}, {unseen(report)}",
        "clean accuracy": f"{report.clean_accuracy.rate:.2%}",
        "SHA-256 of model.onnx": report.subject.model_sha256,
    }
    return [(name, fact) for name, fact in known.items() if fact is not None]


def _detection(evaluation: Evaluation) -> Section | None:
    if not evaluation.attacked:
        return None
    rows, grouping = [], evaluation.manifest.grouping
    clean_p = p_values(evaluation.clean, grouping)
    for each, result in zip(evaluation.attacked, evaluation.report.attacks, strict=True):
        points = operating_points(-clean_p, -p_values(each.answers, grouping)[each.successful], RATES)
        risk = result.on_successful[0]
        rates = [_percent(point.detected) for point in points]
        rows.append(
            (
                result.label,
                f"{result.epsilon:.4g}",
                f"{result.successful} of {result.robust.trials}",
                *("–" if each is None else f"{each:.3f}" for each in (risk.auroc, risk.auroc_on_originals)),
                *rates,
            )
        )
    clean = evaluation.report.data.rows
    return Section(
        title="Detection by attack",
        columns=("attack", "ε", "successful", "AUROC", "AUROC, own", *(f"TPR at {rate:.1%}" for rate in RATES)),
        rows=tuple(rows),
        note=f"TPR: share of the successful attacks that are stranger than all but so many of the {clean:,} clean test "
        f"images. One of these is {1 / clean:.2%}: at a rate below that, no clean image may be flagged. AUROC: against "
        "these; own: against what the successful attacks were made from.",
    )


def _followed(evaluation: Evaluation) -> Proportion | None:
    """Of the successes that pictures are drawn of, those that end in the class that was second before."""
    most = strongest(evaluation.attacked)
    if most is None:
        return None
    second = evaluation.clean.runner_up[evaluation.chosen]
    return Proportion.where((most.answers.label == second)[most.successful])


def _flags(answers: Answers, evaluation: Evaluation) -> NDArray[np.bool_]:
    """What the bundle flags by itself."""
    found = flagged(answers, evaluation.manifest.grouping, evaluation.manifest.calibration.alpha)
    assert found is not None  # or the bundle would not have this α
    return found


def _class_alarms(evaluation: Evaluation) -> list[ClassAlarms]:
    """In the order of the classes; if there are many, those with the highest rates first, and no others."""
    found = _flags(evaluation.clean, evaluation)
    truth = evaluation.test.labels
    rows = [
        ClassAlarms(name, Proportion.where(found[truth == label]))
        for label, name in enumerate(evaluation.manifest.classes)
        if (truth == label).any()
    ]
    if len(rows) > _CLASSES:
        rows = sorted(rows, key=lambda row: -row.flagged.rate)[:_CLASSES]
    return rows


def _shown(evaluation: Evaluation) -> list[Shown]:
    attack, names = evaluation.examples.attack, evaluation.manifest.classes
    shown = []
    for example in evaluation.examples.shown:
        changed = None
        if attack is not None and example.attacked is not None:
            changed = difference(example.clean.image, example.attacked.image, amplification(attack.epsilon))
        shown.append(
            Shown(
                place=example.place,
                row=example.row,
                truth=names[example.truth],
                clean=depicted(example.clean, evaluation.manifest),
                attacked=None if example.attacked is None else depicted(example.attacked, evaluation.manifest),
                difference=changed,
                bars=softmax_bars(example.clean, example.attacked, example.truth, names),
            )
        )
    return shown


def depicted(view: View, manifest: Manifest) -> Depicted:
    """An input with what its bundle says about it."""
    grouping = manifest.grouping
    return Depicted(
        picture=picture(view.image),
        label=manifest.classes[view.label],
        p_value=p_value(view.rank, grouping.size_of_key[view.label]),
        flagged=view.rank <= grouping.rank_limits(manifest.calibration.alpha)[view.label],
    )


def softmax_bars(clean: View, attacked: View | None, truth: int, names: Sequence[str]) -> tuple[Bar, ...]:
    """All classes, or of more than `_BARS` the largest few of either view and the true one."""
    labels = list(range(len(names)))
    if len(names) > _BARS:
        views = [view.probabilities for view in (clean, attacked) if view is not None]
        largest = [np.argsort(-view)[: _BARS // 2] for view in views]
        labels = sorted({truth, *(int(label) for label in np.concatenate(largest))})
    return tuple(
        Bar(
            name=names[label],
            is_truth=label == truth,
            clean=float(clean.probabilities[label]),
            attacked=None if attacked is None else float(attacked.probabilities[label]),
        )
        for label in labels
    )


def _base_rate(evaluation: Evaluation) -> BaseRate:
    """At the rate that is guaranteed, and against the attack that the flag sees least of."""
    alpha = evaluation.manifest.calibration.alpha
    detected = [
        (float(_flags(each.answers, evaluation)[each.successful].mean()), each.attack.label)
        for each in evaluation.attacked
        if each.successful.any()
    ]
    if evaluation.report.adaptive is not None:
        detected += [
            (1 - level.of_successful.rate, attack.label)
            for attack in evaluation.report.adaptive.attacks
            for level in attack.undetected
            if level.alpha == alpha and level.of_successful is not None
        ]
    detection, against = min(detected) if detected else (1.0, None)
    rows = tuple(alarms(each, alpha, detection) for each in PREVALENCES)
    return BaseRate(against, detection, rows)


def _percent(share: Proportion | None) -> str:
    return "–" if share is None else f"{share.rate:.1%}"
