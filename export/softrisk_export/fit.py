"""From clean rows to a score: what has parameters is fitted on rows of its own.

A score whose parameters come from the rows that calibrate it ranks them differently from new ones, and the promise
needs both to be ranked alike. So the rows of the fit calibrate nothing.
"""

from typing import Final

from softrisk_core.scores.catalogue import find_score
from softrisk_core.scores.score import Score
from softrisk_export.calibrate import refuse_broken
from softrisk_export.runtime import Runner
from softrisk_export.source import CleanRows, Source

FIT_ROWS: Final = 2000
FIT_ROWS_A_CLASS: Final = 20
"""At most so many rows, the larger of both, and at most a fifth of all, fit a score."""


def fit_score(name: str, source: Source, rows: CleanRows) -> tuple[Score, CleanRows]:
    """The score of this name, and the rows that may calibrate it.

    Args:
        name: One of `SCORES`.
        source: The classifier.
        rows: Clean data that the classifier has not seen.

    Raises:
        CalibrationError: If there is no such score, or the rows are too few or too much alike for it.
    """
    recipe = find_score(name)
    if recipe.fit is None:
        return recipe.load({}), rows
    wanted = max(FIT_ROWS, FIT_ROWS_A_CLASS * len(source.classes))
    shown, left = rows.set_apart(min(wanted, len(rows.inputs) // 5), f"fit {name}")
    logits = Runner(source.model).over(shown.inputs, ["logits"])["logits"]
    refuse_broken(logits)
    return recipe.fit(logits), left
