"""Generalised entropy."""

import numpy as np

from softrisk_core.scores.gen import GAMMA, GEN, LARGEST
from softrisk_export.scores.tail import Tail, of_diagnostics


def gen(score: GEN, classes: int) -> Tail:
    """Σ p^γ (1 − p)^γ over the largest probabilities."""
    largest = min(classes, LARGEST)
    return Tail(
        """
        score (
            float[batch, classes] logits, float[batch, 1] second_column, float[batch] logit_gap,
            float[batch] log_partition, float[batch] log_x
        ) => (float[batch] nonconformity) {
            sorted, labels = TopK <axis = 1> (logits, largest)
            others = Slice (sorted, second, end, class_axis)
            below = Sub (others, second_column)
            minus_log_second = Add (logit_gap, log_partition)
            shift = Unsqueeze (minus_log_second, class_axis)
            log_others = Sub (below, shift)
            probabilities_of_others = Exp (log_others)
            complements = Sub (one, probabilities_of_others)
            log_complements = Log (complements)
            log_products = Add (log_others, log_complements)
            powers = Mul (log_products, gamma)
            terms = Exp (powers)
            sum_of_others = ReduceSum <keepdims = 0> (terms, class_axis)

            twice = Mul (log_partition, two)
            log_product = Sub (log_x, twice)
            power = Mul (log_product, gamma)
            term = Exp (power)
            nonconformity = Add (term, sum_of_others)
        }
        """,
        {
            "largest": np.array([largest]),
            "second": np.array([1]),
            "end": np.array([largest]),
            "class_axis": np.array([1]),
            "one": np.float32(1),
            "two": np.float32(2),
            "gamma": np.float32(GAMMA),
        },
        of_diagnostics("second_column", "log_partition", "log_x") | {"logits": "logits", "logit_gap": "logit_gap"},
    )
