"""Class-conditional density of the sorted logits."""

import numpy as np

from softrisk_core.scores.profile import LogitProfile
from softrisk_export.scores.tail import Tail


def logit_profile(score: LogitProfile) -> Tail:
    """Mahalanobis distance of the largest logit and the steps down from it."""
    size = score.means.shape[1]
    return Tail(
        """
        score (float[batch, classes] logits, int64[batch] label) => (float[batch] nonconformity) {
            sorted, labels = TopK <axis = 1> (logits, size)
            top = Slice (sorted, start, first_end, class_axis)
            upper = Slice (sorted, start, last, class_axis)
            lower = Slice (sorted, first_end, end, class_axis)
            steps = Sub (upper, lower)
            profile = Concat <axis = 1> (top, steps)
            expected = Gather <axis = 0> (means, label)
            deviations = Sub (profile, expected)
            whitened = MatMul (deviations, whitening)
            squares = Mul (whitened, whitened)
            sum_of_squares = ReduceSum <keepdims = 0> (squares, class_axis)
            nonconformity = Sqrt (sum_of_squares)
        }
        """,
        {
            "size": np.array([size]),
            "start": np.array([0]),
            "first_end": np.array([1]),
            "last": np.array([size - 1]),
            "end": np.array([size]),
            "class_axis": np.array([1]),
            "means": score.means,
            "whitening": score.whitening,
        },
        {"logits": "logits", "label": "label"},
    )
