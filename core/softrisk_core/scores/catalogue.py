"""All scores by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.errors import CalibrationError
from softrisk_core.scores.combined import Combination, GatedCombination
from softrisk_core.scores.diagnostic import OneSided, TwoSided
from softrisk_core.scores.doctor import Doctor
from softrisk_core.scores.evidence import Evidence
from softrisk_core.scores.gen import GEN
from softrisk_core.scores.kl_matching import KLMatching
from softrisk_core.scores.knn import KNN
from softrisk_core.scores.mahalanobis import Mahalanobis
from softrisk_core.scores.msp import MSP
from softrisk_core.scores.profile import LogitProfile
from softrisk_core.scores.score import FeatureScore, LogitScore, Score

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Recipe:
    """How a score of this name comes about.

    Attributes:
        name: The score's.
        needs: What it is fitted to: nothing, the logits or features of clean data, or attacks on clean data as well.
        load: From the arrays of a fitted score, and the names of its probes.
        fit: From the logits (n, C) of clean data, where that is all it needs.
        fit_features: From clean data with their features, where it needs these.
    """

    name: str
    needs: Literal["nothing", "logits", "features", "attacks"]
    load: Callable[[Arrays, tuple[str, ...]], Score]
    fit: Callable[[ArrayLike], LogitScore] | None = None
    fit_features: Callable[[Evidence], FeatureScore] | None = None

    def made_from(self, clean: Evidence) -> Score:
        """The score, fitted to clean data if it has parameters.

        Args:
            clean: With features, if it needs them.

        Raises:
            CalibrationError: If the data are too few or too much alike.
        """
        assert self.needs != "attacks"
        if self.fit_features is not None:
            return self.fit_features(clean)
        return self.load({}, ()) if self.fit is None else self.fit(clean.logits)


def _without_fit(score: LogitScore) -> Recipe:
    return Recipe(score.name, "nothing", lambda arrays, probes: score)


def _fitted(name: str, fit: Callable[[ArrayLike], LogitScore], load: Callable[[Arrays], LogitScore]) -> Recipe:
    return Recipe(name, "logits", lambda arrays, probes: load(arrays), fit)


def _of_features(name: str, fit: Callable[[Evidence], FeatureScore], load: Callable[[Arrays], FeatureScore]) -> Recipe:
    return Recipe(name, "features", lambda arrays, probes: load(arrays), fit_features=fit)


_RECIPES: Final = {
    recipe.name: recipe
    for recipe in (
        *(_without_fit(OneSided(name, "low")) for name in DIAGNOSTICS),
        *(_without_fit(OneSided(name, "high")) for name in DIAGNOSTICS),
        *(
            _fitted(f"{name}:two-sided", partial(TwoSided.fit, name), partial(TwoSided.load, name))
            for name in DIAGNOSTICS
        ),
        *map(_without_fit, (MSP(), Doctor(), GEN())),
        _fitted("kl-matching", KLMatching.fit, KLMatching.load),
        _fitted("logit-profile", LogitProfile.fit, LogitProfile.load),
        _of_features("mahalanobis", Mahalanobis.fit, Mahalanobis.load),
        _of_features("knn", KNN.fit, KNN.load),
        Recipe("combined", "attacks", lambda arrays, probes: Combination.load(arrays)),
        Recipe("probed", "attacks", lambda arrays, probes: GatedCombination.load(probes, arrays)),
    )
}

SCORES: Final = tuple(_RECIPES)
"""Names of all scores."""

KINDS: Final = ", ".join(
    [
        *(name for name in SCORES if ":" not in name and name != "probed"),
        "or DIAGNOSTIC:low, DIAGNOSTIC:high or DIAGNOSTIC:two-sided",
    ]
)
"""Those that people name, in fewer words: probes come with an option of their own."""


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
