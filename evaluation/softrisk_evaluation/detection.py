"""How well each score tells attacked inputs from clean ones."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.conformal import marginal_rank
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_evaluation.artifact import Answers
from softrisk_evaluation.directions import DIRECTIONS, Strange
from softrisk_evaluation.report import Detection, OperatingPoint, Proportion
from softrisk_evaluation.statistics import auroc, threshold_at

FALSE_ALARMS: Final = (0.01, 0.05)
"""False-alarm rates at which true-positive rates are reported."""

RISK_SCORE: Final = "risk_score"


def detect(clean: Answers, attacked: Answers, n: int) -> tuple[Detection, ...]:
    """AUROC and true-positive rates of the risk score, of every diagnostic and of published scores.

    Every score is read in one fixed direction (`DIRECTIONS`), whatever the attack.

    Args:
        clean: Answers about all clean test images, the negatives; at least one.
        attacked: Answers about attacked images, the positives; may be empty.
        n: Number of calibration scores.

    Returns:
        The risk score first, then the diagnostics in their usual order, then the published scores.
    """
    diagnostics = (_diagnostic(name, clean.diagnostics[name], attacked.diagnostics[name]) for name in DIAGNOSTICS)
    published = (_detection(name, "high", values, attacked.published[name]) for name, values in clean.published.items())
    return (_risk_score(clean.rank, attacked.rank, n), *diagnostics, *published)


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


def _risk_score(clean: NDArray[np.int64], attacked: NDArray[np.int64], n: int) -> Detection:
    flags = tuple(
        OperatingPoint(
            false_alarms=rate,
            threshold="calibration",
            detected=_share(attacked <= marginal_rank(rate, n)) if marginal_rank(rate, n) else None,
        )
        for rate in FALSE_ALARMS
    )
    # 1 − rank / (n + 1) orders inputs as −rank does, and integers have no rounding.
    return _detection(RISK_SCORE, "high", -clean, -attacked, flags)


def _diagnostic(name: str, clean: NDArray[np.float32], attacked: NDArray[np.float32]) -> Detection:
    direction = DIRECTIONS[name]
    return _detection(name, direction.strange, direction.sign * clean, direction.sign * attacked)


def _detection(
    name: str,
    strange: Strange,
    clean: NDArray[Any],
    attacked: NDArray[Any],
    flags: tuple[OperatingPoint, ...] = (),
) -> Detection:
    points = operating_points(clean, attacked, FALSE_ALARMS)
    return Detection(score=name, strange=strange, auroc=auroc(clean, attacked), points=points, flags=flags)


def _share(flagged: NDArray[np.bool_]) -> Proportion | None:
    return Proportion.of(int(flagged.sum()), flagged.size) if flagged.size else None
