"""How well scores tell attacked inputs from clean ones, by limits that were fixed on calibration rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.conformal import marginal_rank, ranks
from softrisk_core.errors import CalibrationError
from softrisk_core.scores.catalogue import find_score
from softrisk_core.scores.combined import GatedCombination
from softrisk_core.scores.evidence import Evidence
from softrisk_core.scores.score import Score
from softrisk_export.choose import Attacked, Trial, without_probes
from softrisk_export.fit import ProbeMode, Wanted, decide

ALPHAS: Final = (0.001, 0.01, 0.05)
MODES: Final[tuple[ProbeMode, ...]] = ("off", "auto", "always")
RESAMPLES: Final = 1000

PUBLISHED: Final = (
    "msp",
    "max_logit:low",
    "energy:low",
    "entropy:high",
    "gen",
    "doctor",
    "kl-matching",
    "complement_entropy:low",
    "logit_gap:low",
    "logit_gap:two-sided",
    "logit-profile",
    "mahalanobis",
    "knn",
)
"""Scores of the literature, and the two sides of the logit gap; non-ME is the complement entropy."""

GRADIENT: Final = ("single-step", "iterative", "targeted", "minimum-norm")
"""Families whose attacks follow the gradient; all others only see answers."""

FEWEST: Final = 10
"""Successes of an attack that count in a worst case and in a mean."""


@dataclass(frozen=True)
class Attempt:
    """One attack on the test rows.

    Attributes:
        label: Of the attack.
        family: Of the attack.
        evidence: About its k inputs.
        successful: Right on the clean input and wrong on the attacked one, shape (k,).
    """

    label: str
    family: str
    evidence: Evidence
    successful: NDArray[np.bool_]


@dataclass(frozen=True)
class Detection:
    """Of the successes of one attack.

    Attributes:
        attack: Its label.
        family: Its family.
        score: What was ranked.
        successes: How many.
        auroc: Against all clean test rows.
        own_auroc: Against the successes' own originals.
        detected: By α in `ALPHAS`, the flagged share; None where the calibration is too small for it.
        placements: Share of clean test rows that each success is stranger than; NaN where it failed, shape (k,).
        flags: Whether each is flagged, by α; NaN likewise, shape (len(ALPHAS), k).
    """

    attack: str
    family: str
    score: str
    successes: int
    auroc: float
    own_auroc: float
    detected: tuple[float | None, ...]
    placements: NDArray[np.float64]
    flags: NDArray[np.float64]


@dataclass(frozen=True)
class Material:
    """Everything that is judged.

    Attributes:
        trial: To fit and choose with.
        calibration: About n clean rows that fix the limits.
        clean: About clean test rows, those that are attacked first.
        tested: Attacks on these.
    """

    trial: Trial
    calibration: Evidence
    clean: Evidence
    tested: tuple[Attempt, ...]


def _scores(score: Score, evidence: Evidence) -> NDArray[np.float64]:
    """A score that asks for no probes may be the best of a trial that has some."""
    return score.of(evidence if score.probes else without_probes(evidence))


def detect(score: Score, name: str, material: Material, tested: Sequence[Attempt]) -> list[Detection]:
    """Judge one score by some attacks.

    Args:
        score: Of evidence under the probes of the material.
        name: For tables.
        material: Clean data and probes.
        tested: The attacks.
    """
    limits = np.sort(_scores(score, material.calibration).astype(np.float32))
    clean = _scores(score, material.clean).astype(np.float32)
    ordered = np.sort(clean)
    found = []
    for each in tested:
        values = _scores(score, each.evidence).astype(np.float32)
        below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
        placements = np.where(each.successful, below / (2 * ordered.size), np.nan)
        originals = np.sort(clean[: len(values)][each.successful])
        own = np.searchsorted(originals, values, "left") + np.searchsorted(originals, values, "right")
        position = ranks(values, limits)
        flags = np.array(
            [
                np.where(each.successful, position <= marginal_rank(alpha, limits.size), np.nan)
                if marginal_rank(alpha, limits.size)
                else np.full(len(values), np.nan)
                for alpha in ALPHAS
            ]
        )
        any_success = bool(each.successful.any())
        found.append(
            Detection(
                attack=each.label,
                family=each.family,
                score=name,
                successes=int(each.successful.sum()),
                auroc=float(np.nanmean(placements)) if any_success else np.nan,
                own_auroc=float((own / (2 * originals.size))[each.successful].mean()) if any_success else np.nan,
                detected=tuple(float(np.nanmean(row)) if not np.isnan(row).all() else None for row in flags),
                placements=placements,
                flags=flags,
            )
        )
    return found


def false_alarms(score: Score, material: Material) -> tuple[float | None, ...]:
    """Share of clean test rows that are flagged, by α."""
    limits = np.sort(_scores(score, material.calibration).astype(np.float32))
    position = ranks(_scores(score, material.clean).astype(np.float32), limits)
    return tuple(
        float((position <= limit).mean()) if (limit := marginal_rank(alpha, limits.size)) else None for alpha in ALPHAS
    )


def passes(score: Score, material: Material) -> float:
    """Forward passes for a clean test row, on average."""
    if not isinstance(score, GatedCombination):
        return 1.0
    return 1 + len(score.probes) * float(score.was_probed(_scores(score, material.clean)).mean())


def of_mode(trial: Trial, mode: ProbeMode) -> Score:
    """The score that an export in this mode chooses and fits."""
    score, _ = decide(Wanted("auto", mode), trial if mode != "off" else trial.plain())
    return score


def plain(material: Material) -> Material:
    """The same without probes."""
    return Material(
        material.trial.plain(),
        without_probes(material.calibration),
        without_probes(material.clean),
        tuple(
            Attempt(each.label, each.family, without_probes(each.evidence), each.successful) for each in material.tested
        ),
    )


def families_of_tests(material: Material) -> tuple[str, ...]:
    """In the order of the attacks."""
    return tuple(dict.fromkeys(each.family for each in material.tested))


@dataclass(frozen=True)
class HeldOut:
    """Attacks by a score that was fitted and chosen as if their families were not known.

    Attributes:
        detections: In the order of the attacks.
        alarms: By family, the flagged share of clean test rows by α in `ALPHAS`, by the score for this family.
        scores: By family, that score's name.
    """

    detections: list[Detection]
    alarms: dict[str, tuple[float | None, ...]]
    scores: dict[str, str]


def held_out(material: Material, mode: ProbeMode, groups: Iterable[Sequence[str]] = ()) -> HeldOut:
    """Fit, choose and set the gate once for each group of families, without them; then judge the attacks of these.

    Args:
        material: By which.
        mode: When inputs are probed.
        groups: Families that are left out together; by default each family alone.
    """
    used = material if mode != "off" else plain(material)
    by_label: dict[str, Detection] = {}
    alarms, names = {}, {}
    for group in groups or [(family,) for family in families_of_tests(used)]:
        score = of_mode(reduce(Trial.leaving_out, group, used.trial), mode)
        members = [each for each in used.tested if each.family in group]
        by_label |= {each.attack: each for each in detect(score, score.name, used, members)}
        for family in group:
            alarms[family], names[family] = false_alarms(score, used), score.name
    return HeldOut([by_label[each.label] for each in used.tested if each.label in by_label], alarms, names)


def published(material: Material) -> dict[str, list[Detection]]:
    """The scores of the literature, fitted to the clean rows that ours are fitted to."""
    bare = plain(material)
    found = {}
    for name in PUBLISHED:
        recipe = find_score(name)
        if recipe.needs == "features" and bare.trial.fit.features is None:
            continue
        try:
            score = recipe.made_from(bare.trial.fit)
        except CalibrationError:
            continue  # a diagnostic that does not vary, or too few rows
        found[name] = detect(score, name, bare, bare.tested)
    return found


def counted(detections: Iterable[Detection]) -> list[Detection]:
    """Those with enough successes."""
    return [each for each in detections if each.successes >= FEWEST]


def share_flagged(detection: Detection, alpha: float) -> float:
    """Of the successes; NaN where the calibration is too small for α."""
    value = detection.detected[ALPHAS.index(alpha)]
    return np.nan if value is None else value


def interval(values: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """95 % bootstrap interval, over attacked images, of the mean over attacks of a figure that each success has.

    Clean images, calibration and fit stay as they are.

    Args:
        values: For each attack its figures, NaN where it failed; the same images in the same order, of which an attack
            may have fewer.
    """
    longest = max(len(each) for each in values)
    table = np.full((len(values), longest), np.nan)
    for row, each in enumerate(values):
        table[row, : len(each)] = each
    known = ~np.isnan(table)
    filled = np.where(known, table, 0.0)
    generator = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES):
        times = np.bincount(generator.integers(longest, size=longest), minlength=longest).astype(np.float64)
        counts = known @ times
        if (there := counts > 0).any():
            means.append(float(((filled @ times)[there] / counts[there]).mean()))
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def successes(material_clean: Evidence, labels: NDArray[np.int64], attack: Attacked) -> Attempt:
    """An attack with what it achieved.

    Args:
        material_clean: About clean test rows, those that are attacked first.
        labels: Their true classes.
        attack: What was attacked: a beginning of them.
    """
    count = len(attack.evidence.logits)
    before = material_clean.logits[:count].argmax(axis=1) == labels[:count]
    after = attack.evidence.logits.argmax(axis=1) == labels[:count]
    return Attempt(attack.label, attack.family, attack.evidence, before & ~after)
