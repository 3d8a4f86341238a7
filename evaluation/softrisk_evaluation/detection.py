"""How well each score tells attacked inputs from clean ones."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.groups import Grouping
from softrisk_evaluation.artifact import Answers
from softrisk_evaluation.directions import DIRECTIONS, Strange
from softrisk_evaluation.levels import flagged, p_values
from softrisk_evaluation.report import Detection, OperatingPoint, Proportion
from softrisk_evaluation.statistics import auroc, threshold_at

FALSE_ALARMS: Final = (0.01, 0.05)
"""False-alarm rates at which true-positive rates are reported."""

RISK_SCORE: Final = "risk_score"


def detect(clean: Answers, originals: Answers, attacked: Answers, grouping: Grouping) -> tuple[Detection, ...]:
    """AUROC and true-positive rates of the risk score, of every diagnostic and of published scores.

    Every score is read in one fixed direction (`DIRECTIONS`), whatever the attack.

    Args:
        clean: Answers about all clean test images, the negatives; at least one.
        originals: Answers about the attacked images before the attack, in the same order: other negatives.
        attacked: Answers about attacked images, the positives; may be empty.
        grouping: Of the calibration.

    Returns:
        The risk score first, then the diagnostics in their usual order, then the published scores.
    """
    everyone = (clean, originals, attacked)
    diagnostics = (_diagnostic(name, *(each.diagnostics[name] for each in everyone)) for name in DIAGNOSTICS)
    published = (_detection(name, "high", *(each.published[name] for each in everyone)) for name in clean.published)
    return (_risk_score(clean, originals, attacked, grouping), *diagnostics, *published)


def operating_points(
    clean: NDArray[Any], attacked: NDArray[Any], false_alarms: Sequence[float]
) -> tuple[OperatingPoint, ...]:
    """True-positive rates at thresholds from the clean inputs.

    Args:
        clean: Scores of clean inputs, larger is stranger, shape (m,), m ≥ 1.
        attacked: Scores of attacked inputs, shape (k,).
        false_alarms: Rates, in [0, 1).
    """
    return tuple(
        OperatingPoint(
            false_alarms=rate,
            threshold="clean test images",
            detected=_share(attacked > threshold_at(clean, rate)),
        )
        for rate in false_alarms
    )


def _risk_score(clean: Answers, originals: Answers, attacked: Answers, grouping: Grouping) -> Detection:
    flags = tuple(
        OperatingPoint(
            false_alarms=rate,
            threshold="calibration",
            detected=None if (found := flagged(attacked, grouping, rate)) is None else _share(found),
        )
        for rate in FALSE_ALARMS
    )
    # 1 − p orders inputs as −p does, which equal p-values share without rounding.
    values = (-p_values(each, grouping) for each in (clean, originals, attacked))
    return _detection(RISK_SCORE, "high", *values, flags=flags)


def _diagnostic(name: str, *values: NDArray[np.float32]) -> Detection:
    direction = DIRECTIONS[name]
    return _detection(name, direction.strange, *(direction.sign * each for each in values))


def _detection(
    name: str,
    strange: Strange,
    clean: NDArray[Any],
    originals: NDArray[Any],
    attacked: NDArray[Any],
    *,
    flags: tuple[OperatingPoint, ...] = (),
) -> Detection:
    return Detection(
        score=name,
        strange=strange,
        auroc=auroc(clean, attacked),
        auroc_on_originals=auroc(originals, attacked),
        points=operating_points(clean, attacked, FALSE_ALARMS),
        flags=flags,
    )


def _share(flagged: NDArray[np.bool_]) -> Proportion | None:
    return Proportion.of(int(flagged.sum()), flagged.size) if flagged.size else None
