"""Class-conditional density of the penultimate features."""

import numpy as np

from softrisk_core.manifest import FEATURES
from softrisk_core.scores.mahalanobis import Mahalanobis
from softrisk_export.scores.tail import Tail


def mahalanobis(score: Mahalanobis) -> Tail:
    """Distance from the nearest class mean: found by products, which cancel, and measured by differences."""
    return Tail(
        """
        score (float[batch, size] features) => (float[batch] nonconformity) {
            centred = Sub (features, center)
            whitened = MatMul (centred, whitening)
            likeness = Gemm <transB = 1> (whitened, means, minus_half_squares)
            nearest = ArgMax <axis = 1, keepdims = 0> (likeness)
            mean = Gather <axis = 0> (means, nearest)
            deviations = Sub (whitened, mean)
            squares = Mul (deviations, deviations)
            sum_of_squares = ReduceSum <keepdims = 0> (squares, feature_axis)
            nonconformity = Sqrt (sum_of_squares)
        }
        """,
        {
            **score.arrays,
            "minus_half_squares": (-np.square(score.means.astype(np.float64)).sum(axis=1) / 2).astype(np.float32),
            "feature_axis": np.array([1]),
        },
        {"features": FEATURES},
    )
