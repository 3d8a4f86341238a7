"""Distance from clean features."""

import numpy as np

from softrisk_core.manifest import FEATURES
from softrisk_core.scores.knn import KNN, NEAREST, TINY
from softrisk_export.scores.tail import Tail


def knn(score: KNN) -> Tail:
    """Distance from the k-th nearest row: found by products, which cancel, and measured by differences."""
    return Tail(
        """
        score (float[batch, size] features) => (float[batch] nonconformity) {
            squared_values = Mul (features, features)
            squared_length = ReduceSum <keepdims = 1> (squared_values, feature_axis)
            length = Sqrt (squared_length)
            divisor = Max (length, tiny)
            directions = Div (features, divisor)
            likeness = Gemm <transB = 1> (directions, rows)
            most_alike, neighbours = TopK <axis = 1> (likeness, nearest)
            neighbour = Gather <axis = 1> (neighbours, last)
            row = Gather <axis = 0> (rows, neighbour)
            deviations = Sub (directions, row)
            squares = Mul (deviations, deviations)
            sum_of_squares = ReduceSum <keepdims = 0> (squares, feature_axis)
            nonconformity = Sqrt (sum_of_squares)
        }
        """,
        {
            **score.arrays,
            "tiny": np.float32(TINY),
            "nearest": np.array([NEAREST]),
            "last": np.int64(NEAREST - 1),
            "feature_axis": np.array([1]),
        },
        {"features": FEATURES},
    )
