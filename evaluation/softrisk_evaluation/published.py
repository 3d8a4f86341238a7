"""The scores, most of them of the literature, that stand beside the bundle's own in every table of detection."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.errors import CalibrationError
from softrisk_core.scores.catalogue import find_score
from softrisk_core.scores.score import LogitScore
from softrisk_evaluation.artifact import Artifact
from softrisk_export.fit import FIT_ROWS

PUBLISHED: Final = ("msp", "doctor", "gen", "kl-matching", "logit-profile", "logit_gap:two-sided")
"""Max logit, energy, entropy and non-ME are diagnostics, and in the tables as such."""


def published_scores(artifact: Artifact, selection: NDArray[np.float32] | None) -> list[LogitScore]:
    """All that can be had.

    Args:
        artifact: Whose logits they are made from.
        selection: Clean inputs that neither calibrate nor test it; None leaves out what has to be fitted.

    Returns:
        In the order of `PUBLISHED`; without those whose parameters these inputs do not determine.
    """
    logits = None
    if selection is not None:
        # Rows may lie class by class.
        spread = np.linspace(0, len(selection) - 1, min(FIT_ROWS, len(selection))).astype(np.int64)
        logits = artifact.logits(selection[spread])
    scores: list[LogitScore] = []
    for recipe in map(find_score, PUBLISHED):
        if recipe.fit is None:
            score = recipe.load({}, ())
            assert isinstance(score, LogitScore)  # like all that need nothing
            scores.append(score)
        elif logits is not None:
            try:
                scores.append(recipe.fit(logits))
            except CalibrationError:
                continue  # too few rows, or a diagnostic that never varies
    return scores
