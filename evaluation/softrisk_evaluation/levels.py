"""A bundle's calibration, read at a false-alarm rate."""

import numpy as np
from numpy.typing import NDArray

from softrisk_core.conformal import Guarantee
from softrisk_core.errors import CalibrationError
from softrisk_core.groups import Grouping
from softrisk_evaluation.artifact import Answers


def flagged(
    answers: Answers, grouping: Grouping, alpha: float, guarantee: Guarantee = "marginal"
) -> NDArray[np.bool_] | None:
    """Which inputs the bundle flags at α, shape (N,); None if its calibration is too small for α."""
    try:
        limits = grouping.rank_limits(alpha, guarantee)
    except CalibrationError:
        return None
    return answers.rank <= np.array(limits)[answers.label]


def score_limits(sorted_scores: NDArray[np.float32], grouping: Grouping, alpha: float) -> NDArray[np.float32]:
    """The largest score that is not flagged at α, for each predicted label, shape (C,).

    Args:
        sorted_scores: Of the calibration, as they are kept, shape (n,).
        grouping: Of the calibration.
        alpha: False-alarm rate.

    Raises:
        CalibrationError: If α is out of range, or one of the groups is too small for it.
    """
    groups = grouping.split(sorted_scores)
    ranks = grouping.rank_limits(alpha)
    return np.array([groups[group][-rank] for group, rank in zip(grouping.of_key, ranks, strict=True)], np.float32)


def p_values(answers: Answers, grouping: Grouping) -> NDArray[np.float64]:
    """Conformal p-values, shape (N,). They order inputs as the ranks of one group do, and across groups as well."""
    return grouping.p_values(answers.rank, answers.label)
