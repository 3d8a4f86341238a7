"""From a checkpoint to figures: cells, then scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.detection import asked
from benchmarks.detection.attacks import attacks, cells
from benchmarks.detection.judge import (
    GRADIENT,
    MODES,
    Detection,
    HeldOut,
    Material,
    counted,
    detect,
    false_alarms,
    families_of_tests,
    held_out,
    of_mode,
    passes,
    plain,
    published,
    share_flagged,
    successes,
)
from numpy.typing import NDArray

from softrisk_core.bundle import file_entry
from softrisk_core.score_facts import GatePoint
from softrisk_core.scores.combined import GatedCombination
from softrisk_evaluation.experiments.study import Cell, Study
from softrisk_export.choose import SHARES, Attacked, gate_limits
from softrisk_training.checkpoint import load_checkpoint


@dataclass(frozen=True)
class Figures:
    """What one checkpoint's scores are worth.

    Attributes:
        accuracy: On clean test rows.
        clean: How many there are.
        images: How many of them were attacked.
        calibration: Rows that fixed the limits.
        families: Of the attacks that scores were fitted to.
        held_out: By mode, every attack by a score that never saw its family.
        gradient_free: By mode, the attacks that follow a gradient, by a score that knew none that does.
        shipped: By mode, every attack by the score that an export seals, which was fitted to other attacks of the same
            family.
        published: By score.
        names: By mode, the score that was chosen.
        alarms: By mode, the flagged share of clean test rows, by α.
        passes: By mode, forward passes for a clean test row.
        curve: Detection at 5 % false alarms over forward passes, by gates, held-out families.
        robust: By attack, the share of attacked images that are right before and after.
    """

    accuracy: float
    clean: int
    images: int
    calibration: int
    families: tuple[str, ...]
    held_out: dict[str, HeldOut]
    gradient_free: dict[str, HeldOut]
    shipped: dict[str, list[Detection]]
    published: dict[str, list[Detection]]
    names: dict[str, str]
    alarms: dict[str, tuple[float | None, ...]]
    passes: dict[str, float]
    curve: tuple[GatePoint, ...]
    robust: dict[str, float]


def measure(study: Study, checkpoint: Path, images: int, epsilons: Sequence[float]) -> Figures:
    """Attack the test rows, ask the classifier about everything, and judge the scores.

    Args:
        study: Keeps what takes long.
        checkpoint: The classifier.
        images: Test rows that are attacked.
        epsilons: ℓ∞ radii, ascending, of fit and test.
    """
    material, right = _material(study, checkpoint, images, epsilons)
    return judged(material, right, images)


def judged(material: Material, right: NDArray[np.bool_], images: int) -> Figures:
    """Judge the scores.

    Args:
        material: By which.
        right: Where the classifier is right about the clean test rows.
        images: How many of them were attacked.
    """
    bare = plain(material)
    scores = {mode: of_mode(material.trial, mode) for mode in MODES}
    used = {mode: bare if mode == "off" else material for mode in MODES}
    return Figures(
        accuracy=float(right.mean()),
        clean=len(right),
        images=images,
        calibration=len(material.calibration.logits),
        families=material.trial.families,
        held_out={mode: held_out(material, mode) for mode in MODES},
        gradient_free={mode: held_out(material, mode, [GRADIENT]) for mode in MODES},
        shipped={mode: detect(scores[mode], scores[mode].name, used[mode], used[mode].tested) for mode in MODES},
        published=published(material),
        names={mode: score.name for mode, score in scores.items()},
        alarms={mode: false_alarms(score, used[mode]) for mode, score in scores.items()},
        passes={mode: passes(score, used[mode]) for mode, score in scores.items()},
        curve=_curve(material),
        robust={
            each.label: float(right[: each.successful.size].mean() - each.successful.mean()) for each in material.tested
        },
    )


def _material(
    study: Study, checkpoint: Path, images: int, epsilons: Sequence[float]
) -> tuple[Material, NDArray[np.bool_]]:
    sha256, path = file_entry(checkpoint).sha256, str(checkpoint)
    classes = len(load_checkpoint(checkpoint).classes)
    suite = cells(checkpoint, sha256, images, epsilons, classes)
    study.results("attacks", suite)
    common = {"checkpoint": path, "sha256": sha256}
    folder = f"detection/{checkpoint.stem}"
    (kept,) = study.results(
        "attacks to fit to", [Cell(f"{folder}/calibration", asked.calibration, {**common, "epsilons": list(epsilons)})]
    )
    (clean,) = study.results("clean rows", [Cell(f"{folder}/clean", asked.clean, {**common, "images": images})])
    files = [cell.file for cell in suite]
    (answers,) = study.results(
        "attacked rows", [Cell(f"{folder}/asked", asked.under_attack, {**common, "attacked": files})]
    )
    evidence, labels = asked.unpacked("test", clean), clean["labels"]
    tested = tuple(
        successes(evidence, labels, Attacked(attack.label, attack.family, asked.unpacked(f"attacked:{index}", answers)))
        for index, attack in enumerate(attacks(epsilons, classes))
    )
    trial = asked.unpacked_trial(kept, asked.classifier(path).probes)
    material = Material(trial, asked.unpacked("calibration", kept), evidence, tested)
    return material, evidence.logits.argmax(axis=1) == labels


def _curve(material: Material) -> tuple[GatePoint, ...]:
    """Each gate, its limits fixed on rows that neither fit nor calibrate, measured on test rows."""
    found: dict[float, list[float]] = {share: [] for share in SHARES}
    spent: dict[float, list[float]] = {share: [] for share in SHARES}
    for family in families_of_tests(material):
        gate, full = material.trial.leaving_out(family).combinations()
        members = [each for each in material.tested if each.family == family]
        for share in SHARES:
            score = GatedCombination(gate, full, gate_limits(gate, material.trial.judge, share))
            found[share] += [share_flagged(each, 0.05) for each in counted(detect(score, "", material, members))]
            spent[share].append(passes(score, material))
    return tuple(
        GatePoint(passes=float(np.mean(spent[share])), worst=min(found[share]), mean=float(np.mean(found[share])))
        for share in SHARES
    )
