"""Weights of a combination: logistic regression of clean against attacked inputs."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.probes import Probe
from softrisk_core.scores.combined import Combination, fit_edges, terms
from softrisk_core.scores.evidence import Evidence
from softrisk_core.scores.features import features, sizes

INVERSE_PENALTY: Final = 0.1
"""C of scikit-learn, for terms of unit spread and as many effective rows as there are."""


def fit_combination(clean: Evidence, attacked: Sequence[Evidence], probes: tuple[Probe, ...]) -> Combination:
    """Weigh what tells attacked inputs from clean ones.

    Clean inputs together count as much as attacked ones, and each attack as much as any other, however many inputs it
    fooled.

    Args:
        clean: About clean inputs, under these probes.
        attacked: About the inputs that each attack fooled the classifier with, under the same.
        probes: In the order of the evidence; none for a combination without.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    ordinary = features(clean)
    edges = fit_edges(ordinary, sizes(clean, ordinary))
    parts = [terms(ordinary, edges), *(terms(features(each), edges) for each in attacked if len(each.logits))]
    rows = np.concatenate(parts)
    center, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    strange = np.concatenate([np.full(len(part), index > 0) for index, part in enumerate(parts)])
    share = [1.0, *([1 / (len(parts) - 1)] * (len(parts) - 1))]
    weight = np.concatenate([np.full(len(part), own / len(part)) for own, part in zip(share, parts, strict=True)])
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=5000)
    model.fit((rows - center) / spread, strange, sample_weight=weight * len(rows) / 2)
    weights: NDArray[np.float64] = model.coef_[0] / spread
    bias = model.intercept_[0] - weights @ center
    return Combination(edges, weights.astype(np.float32), np.float32(bias), probes)
