"""Cross entropy and what changes its target, its weights or the size of its logits."""

import torch
from torch import Tensor
from torch.nn import functional as F

from softrisk_training.errors import TrainingError
from softrisk_training.losses.base import Loss, not_negative, off_label


class CrossEntropy(Loss):
    """CE = −log p_y, mean over the batch: the maximum-likelihood loss."""

    name = "ce"

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean CE."""
        return F.cross_entropy(logits, labels)


class LabelSmoothing(Loss):
    """CE against (1 − s) · one-hot(y) + s/C, mean over the batch (Szegedy et al., CVPR 2016, section 7).

    Args:
        smoothing: s, in [0, 1).
    """

    name = "label-smoothing"

    def __init__(self, smoothing: float = 0.1) -> None:
        if not 0 <= smoothing < 1:
            raise TrainingError(f"smoothing must be in [0, 1), got {smoothing:g}")
        super().__init__(smoothing=smoothing)
        self.smoothing = smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean CE against the smoothed target."""
        return F.cross_entropy(logits, labels, label_smoothing=self.smoothing)


class FocalLoss(Loss):
    """(1 − p_y)^γ · CE, mean over the batch: less weight for what is learnt (Lin et al., ICCV 2017, eq. 4).

    1 − p_y is Σ_{j∈N} p_j, summed in log space: the difference rounds to 0 where the sum does not.

    Args:
        gamma: γ ≥ 0; 0 gives CE, the paper's choice is 2.
    """

    name = "focal"

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__(gamma=not_negative("gamma", gamma))
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean focal loss."""
        log_p = logits.log_softmax(dim=1)
        log_rest = off_label(log_p, labels).logsumexp(dim=1)
        ce = F.nll_loss(log_p, labels, reduction="none")
        return (torch.exp(self.gamma * log_rest) * ce).mean()


class LogitSqueezing(Loss):
    """CE + w · ‖z‖₂², mean over the batch (Kannan et al., arXiv 1803.06373).

    Small logits leave the attacker small gradients, which is the known failing of the method: what it gains against a
    weak attack it loses against a strong one (Mosbach et al., arXiv 1810.12042). It is meant to be trained on inputs
    with Gaussian noise, and it is not invariant to a common shift of the logits.

    Args:
        weight: w ≥ 0.
    """

    name = "logit-squeezing"

    def __init__(self, weight: float = 0.05) -> None:
        super().__init__(weight=not_negative("weight", weight))
        self.weight = weight

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean CE and squared norm."""
        return F.cross_entropy(logits, labels) + self.weight * logits.square().sum(dim=1).mean()
