"""Softmax diagnostics of every token of a caption, and one figure for the caption.

A vocabulary is wide, and most of its words are out of the question at any place. So each token is diagnosed within its
largest logits: the word that was written and the K strongest of the others.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.diagnostics import diagnose
from softrisk_evaluation.directions import DIRECTIONS

TOKEN_DIAGNOSTICS: Final = ("logit_gap", "dispersion", "complement_entropy")


def token_diagnostics(
    logits: NDArray[np.float32], written: NDArray[np.bool_], top_k: int
) -> dict[str, NDArray[np.float64]]:
    """Diagnostics of each token.

    Args:
        logits: Shape (N, T, words).
        written: Where there is a token, shape (N, T).
        top_k: How many of the other words count, from 1 to words − 1.

    Returns:
        For each of `TOKEN_DIAGNOSTICS` an array of shape (N, T), NaN where no token is.
    """
    largest = np.partition(logits[written], -(top_k + 1), axis=1)[:, -(top_k + 1) :]
    values = diagnose(largest)
    found = {}
    for name in TOKEN_DIAGNOSTICS:
        found[name] = np.full(written.shape, np.nan)
        found[name][written] = values[name]
    return found


def caption_scores(
    logits: NDArray[np.float32], written: NDArray[np.bool_], top_k: int
) -> dict[str, NDArray[np.float64]]:
    """How strange each caption is, larger is stranger.

    Args:
        logits: Shape (N, T, words).
        written: Where there is a token, shape (N, T); one or more of each caption.
        top_k: As for `token_diagnostics`.

    Returns:
        For each diagnostic two arrays of shape (N,): `<name>, strangest token`, its minimum over tokens, or its maximum
        where large values are strange (`directions`); and `<name>, mean`.
    """
    scores = {}
    for name, values in token_diagnostics(logits, written, top_k).items():
        strange = DIRECTIONS[name].sign * values
        scores[f"{name}, strangest token"] = np.nanmax(strange, axis=1)
        scores[f"{name}, mean"] = np.nanmean(strange, axis=1)
    return scores
