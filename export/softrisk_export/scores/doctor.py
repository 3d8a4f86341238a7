"""DOCTOR."""

import numpy as np

from softrisk_core.scores.doctor import Doctor
from softrisk_export.scores.tail import Tail, of_diagnostics


def doctor(score: Doctor) -> Tail:
    """log((1 − Σ p²) / Σ p²). In `exp_below` the label counts as a further 1."""
    return Tail(
        """
        score (
            float[one, batch, classes] exp_below, float[batch] sum_below, float[batch] log_x, float[batch] logit_gap
        ) => (float[batch] nonconformity) {
            squares = Mul (exp_below, exp_below)
            squares_with_label = ReduceSum <keepdims = 0> (squares, layer_and_class)
            squares_below = Sub (squares_with_label, one)
            falling = Neg (logit_gap)
            largest = Exp (falling)
            ratio = Div (squares_below, sum_below)
            more = Sub (sum_below, ratio)
            small = Mul (largest, more)
            about_two = Add (small, two)
            log_of_it = Log (about_two)
            largest_squared = Mul (largest, largest)
            b = Mul (largest_squared, squares_below)
            partition = Add (b, one)
            agreement = Log (partition)
            doubts = Add (log_x, log_of_it)
            nonconformity = Sub (doubts, agreement)
        }
        """,
        {"layer_and_class": np.array([0, 2]), "one": np.float32(1), "two": np.float32(2)},
        of_diagnostics("exp_below", "sum_below", "log_x") | {"logit_gap": "logit_gap"},
    )
