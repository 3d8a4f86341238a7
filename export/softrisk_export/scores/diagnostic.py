"""One diagnostic, one side of it or both."""

import numpy as np

from softrisk_core.scores.diagnostic import OneSided, TwoSided
from softrisk_export.scores.tail import Tail


def one_sided(score: OneSided) -> Tail:
    """±diagnostic."""
    return Tail(
        """
        score (float[batch] diagnostic) => (float[batch] nonconformity) {
            nonconformity = Mul (diagnostic, sign)
        }
        """,
        {"sign": np.float32(score.sign)},
        {"diagnostic": score.diagnostic},
    )


def two_sided(score: TwoSided) -> Tail:
    """|F(d) − ½|, F as the sum of what each straight piece has risen, and the distance beyond the outer edges."""
    edges, levels = score.edges.astype(np.float64), score.levels.astype(np.float64)
    return Tail(
        """
        score (float[batch] diagnostic) => (float[batch] nonconformity) {
            column = Unsqueeze (diagnostic, last_axis)
            raised = Max (column, lower)
            clipped = Min (raised, upper)
            into_piece = Sub (clipped, lower)
            rises = Mul (into_piece, slopes)
            below = ReduceSum <keepdims = 0> (rises, last_axis)
            from_middle = Sub (below, half)
            distance = Abs (from_middle)

            not_below = Max (diagnostic, first)
            inside = Min (not_below, last)
            outside = Sub (diagnostic, inside)
            far = Abs (outside)
            beyond = Mul (far, one_of_range)
            nonconformity = Add (distance, beyond)
        }
        """,
        {
            "last_axis": np.array([1]),
            "lower": score.edges[None, :-1],
            "upper": score.edges[None, 1:],
            "slopes": (np.diff(levels) / np.diff(edges)).astype(np.float32)[None],
            "half": np.float32(0.5),
            "first": score.edges[0],
            "last": score.edges[-1],
            "one_of_range": np.float32(1 / (edges[-1] - edges[0])),
        },
        {"diagnostic": score.diagnostic},
    )
