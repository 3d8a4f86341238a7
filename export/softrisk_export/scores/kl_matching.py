"""KL matching."""

import numpy as np

from softrisk_core.scores.kl_matching import KLMatching
from softrisk_export.scores.tail import Tail


def kl_matching(score: KLMatching) -> Tail:
    """Min over templates of Σ p log p − Σ p log d."""
    return Tail(
        """
        score (float[batch, classes] probabilities, float[batch] entropy) => (float[batch] nonconformity) {
            fits = MatMul (probabilities, log_templates)
            best_fits, templates = TopK <axis = 1> (fits, one)
            best_fit = Gather <axis = 1> (best_fits, first)
            negative_entropy = Neg (entropy)
            nonconformity = Sub (negative_entropy, best_fit)
        }
        """,
        {
            "log_templates": np.ascontiguousarray(score.log_templates.T),
            "one": np.array([1]),
            "first": np.int64(0),
        },
        {"probabilities": "probabilities", "entropy": "entropy"},
    )
