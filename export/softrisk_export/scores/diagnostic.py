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
    """The distance from the median on the scale of its side."""
    return Tail(
        """
        score (float[batch] diagnostic) => (float[batch] nonconformity) {
            deviation = Sub (diagnostic, center)
            above = Mul (deviation, one_of_high)
            beneath = Mul (deviation, minus_one_of_low)
            nonconformity = Max (above, beneath)
        }
        """,
        {
            "center": score.center,
            "one_of_high": np.float32(1 / score.high),
            "minus_one_of_low": np.float32(-1 / score.low),
        },
        {"diagnostic": score.diagnostic},
    )
