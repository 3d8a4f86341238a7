"""KL matching."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softrisk_core.diagnostics import diagnose, softmax
from softrisk_core.scores.score import LogitScore


@dataclass(frozen=True)
class KLMatching(LogitScore):
    """min over classes k of KL(p ‖ d_k), d_k the mean softmax of clean inputs that are predicted as k.

    Hendrycks et al. (ICML 2022, section 4), with the sign of a nonconformity score.

    Attributes:
        log_templates: log d_k of the K classes that were predicted at all, shape (K, C).
    """

    log_templates: NDArray[np.float32]

    @classmethod
    def fit(cls, logits: ArrayLike) -> "KLMatching":
        """From the logits of clean data."""
        z = np.asarray(logits, dtype=np.float64)
        log_p = z - diagnose(z)["energy"][:, None]
        predicted = z.argmax(axis=1)
        means = [
            np.logaddexp.reduce(log_p[predicted == label], axis=0) - np.log((predicted == label).sum())
            for label in np.unique(predicted)
        ]
        return cls(np.array(means, np.float32))

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[np.float32]]) -> "KLMatching":
        """From `arrays`."""
        return cls(arrays["log_templates"])

    @property
    def name(self) -> str:
        """`kl-matching`."""
        return "kl-matching"

    @property
    def arrays(self) -> Mapping[str, NDArray[np.float32]]:
        """`log_templates`."""
        return {"log_templates": self.log_templates}

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """In nats, ≥ 0 but for the rounding of the templates."""
        # Σ p log p is −entropy, which has no 0 · log 0.
        fit = (softmax(logits) @ self.log_templates.T.astype(np.float64)).max(axis=1)
        matched: NDArray[np.float64] = -diagnose(logits)["entropy"] - fit
        return matched
