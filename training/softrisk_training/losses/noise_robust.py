"""Losses that forgive wrong labels: bounded, or partly so."""

import torch
from torch import Tensor
from torch.nn import functional as F

from softrisk_training.errors import TrainingError
from softrisk_training.losses.base import Loss, not_negative, off_label


class MeanAbsoluteError(Loss):
    """MAE = Σ_j |1[j = y] − p_j| = 2 (1 − p_y), mean over the batch.

    Bounded, hence robust to symmetric label noise, but slow to train (Ghosh et al., AAAI 2017). It is computed as
    2 Σ_{j∈N} p_j, which keeps its gradient where 1 − p_y would round to 0.
    """

    name = "mae"

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean MAE, in [0, 2]."""
        return 2 * off_label(logits.softmax(dim=1), labels).sum(dim=1).mean()


class GeneralizedCrossEntropy(Loss):
    """L_q = (1 − p_y^q) / q, mean over the batch (Zhang & Sabuncu, NeurIPS 2018, eq. 6).

    q → 0 gives CE and q = 1 gives 1 − p_y, half of MAE; between them lies the trade between speed and robustness to
    label noise. p_y^q is exp(q log p_y), and 1 − exp(·) is −expm1(·), exact for p_y near 1.

    Args:
        q: In (0, 1]; the paper's choice is 0.7.
    """

    name = "gce"

    def __init__(self, q: float = 0.7) -> None:
        if not 0 < q <= 1:
            raise TrainingError(f"q of the generalised cross entropy must be in (0, 1], got {q:g}")
        super().__init__(q=q)
        self.q = q

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean L_q, in [0, 1/q]."""
        log_p = -F.cross_entropy(logits, labels, reduction="none")
        return (-torch.expm1(self.q * log_p) / self.q).mean()


class SymmetricCrossEntropy(Loss):
    """α·CE + β·RCE, mean over the batch (Wang et al., ICCV 2019).

    RCE = −Σ_j p_j log 1[j = y] swaps prediction and label. Its log 0 is defined to be a constant A < 0, so that
    RCE = −A Σ_{j∈N} p_j = −A/2 · MAE. The paper has A = −4; a clamp of the one-hot label at 1e-4, seen in many
    implementations, amounts to A = −9.2. (This reverse cross entropy is not that of `rce`.)

    Args:
        alpha: α ≥ 0, weight of CE; the paper has 0.1 for CIFAR-10.
        beta: β ≥ 0, weight of RCE; the paper has 1.
        log_zero: A < 0.
    """

    name = "symmetric-ce"

    def __init__(self, alpha: float = 0.1, beta: float = 1.0, log_zero: float = -4.0) -> None:
        if not log_zero < 0:
            raise TrainingError(f"log_zero, which stands for log 0, must be negative, got {log_zero:g}")
        super().__init__(alpha=not_negative("alpha", alpha), beta=not_negative("beta", beta), log_zero=log_zero)
        self.alpha = alpha
        self.beta = beta
        self.log_zero = log_zero

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean of both terms."""
        rest = off_label(logits.softmax(dim=1), labels).sum(dim=1).mean()
        return self.alpha * F.cross_entropy(logits, labels) - self.beta * self.log_zero * rest
