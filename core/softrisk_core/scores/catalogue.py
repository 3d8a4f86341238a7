"""All scores by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.errors import CalibrationError
from softrisk_core.scores.diagnostic import OneSided, TwoSided
from softrisk_core.scores.doctor import Doctor
from softrisk_core.scores.gen import GEN
from softrisk_core.scores.kl_matching import KLMatching
from softrisk_core.scores.msp import MSP
from softrisk_core.scores.profile import LogitProfile
from softrisk_core.scores.score import Score

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Recipe:
    """How a score of this name comes about.

    Attributes:
        name: The score's.
        fit: From the logits (n, C) of clean data; None where there is nothing to fit.
        load: From the arrays of a fitted score.
    """

    name: str
    fit: Callable[[ArrayLike], Score] | None
    load: Callable[[Arrays], Score]


def _without_fit(score: Score) -> Recipe:
    return Recipe(score.name, None, lambda arrays: score)


_RECIPES: Final = {
    recipe.name: recipe
    for recipe in (
        *(_without_fit(OneSided(name, "low")) for name in DIAGNOSTICS),
        *(_without_fit(OneSided(name, "high")) for name in DIAGNOSTICS),
        *(
            Recipe(f"{name}:two-sided", partial(TwoSided.fit, name), partial(TwoSided.load, name))
            for name in DIAGNOSTICS
        ),
        *map(_without_fit, (MSP(), Doctor(), GEN())),
        Recipe("kl-matching", KLMatching.fit, KLMatching.load),
        Recipe("logit-profile", LogitProfile.fit, LogitProfile.load),
    )
}

SCORES: Final = tuple(_RECIPES)
"""Names of all scores."""

KINDS: Final = ", ".join(
    [*(name for name in SCORES if ":" not in name), "or DIAGNOSTIC:low, DIAGNOSTIC:high or DIAGNOSTIC:two-sided"]
)
"""The same in fewer words, for people."""


def find_score(name: str) -> Recipe:
    """The recipe of a score.

    Raises:
        CalibrationError: If there is none of this name.
    """
    if name not in _RECIPES:
        raise CalibrationError(
            f"{name!r} is not a score: write {KINDS}, for the side that is strange, with DIAGNOSTIC one of "
            f"{', '.join(DIAGNOSTICS)}"
        )
    return _RECIPES[name]
