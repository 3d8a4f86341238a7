"""Losses about the classes other than the label, older than DRSL and to be compared with it."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from softrisk_training.errors import TrainingError
from softrisk_training.losses.base import Loss, off_label


class ReverseCrossEntropy(Loss):
    """CE of softmax(−z) against the reversed label, mean over the batch (Pang et al., NeurIPS 2018).

    The reversed label is 1/(C−1) on N and 0 on y: the network is taught what an input is *not*, and the minimum,
    log(C − 1), is where the wrong classes are all alike. The paper trains a network of outputs Z with
    softmax(Z) → reversed label, and then predicts with −Z. Here the minus stands in the loss and z = −Z, so that the
    largest logit is the prediction, as with every other loss, and nothing has to be negated afterwards.
    """

    name = "rce"

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean of −1/(C−1) Σ_{j∈N} log softmax(−z)_j, at least log(C − 1)."""
        return -off_label((-logits).log_softmax(dim=1), labels).mean()


class ComplementObjective(Loss):
    """CE + (log(C−1) − H(q)) / (C−1), mean over the batch: complement objective training (Chen et al., ICLR 2019).

    H(q) = −Σ_{j∈N} q_j log q_j, the complement entropy, is raised until q is uniform; 1/(C−1) balances it
    against CE. The constant log(C−1) has no gradient; with it, the loss is never negative. Two departures: the
    paper takes two steps for each batch, one along either gradient, each with an optimiser of its own; here both
    gradients are added into one step, which costs no second pass and treats them with one learning rate. And the
    authors' code divides by C where the paper divides by C − 1.
    """

    name = "cot"

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean of both terms."""
        return F.cross_entropy(logits, labels) + _missing_entropy(logits, labels).mean() / (logits.shape[1] - 1)


class GuidedComplementEntropy(Loss):
    """(log(C−1) − p_y^α H(q)) / log C, mean over the batch (Chen et al., ICCV 2019).

    It takes the place of CE: p_y^α, the guide, lets H(q) count as the label is learnt, and the product is largest where
    p_y = 1 and q is uniform. The constant log(C−1)/log C has no gradient; with it, the loss lies in [0, 1).

    Args:
        alpha: α > 0; the paper's choice is 1/3.
    """

    name = "guided-complement"

    def __init__(self, alpha: float = 1 / 3) -> None:
        if not alpha > 0:
            raise TrainingError(f"alpha of the guided complement entropy must be greater than 0, got {alpha:g}")
        super().__init__(alpha=alpha)
        self.alpha = alpha

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean, in [0, 1).

        Raises:
            TrainingError: With two classes: N has one member, whose entropy is always 0, and nothing can be learnt.
        """
        classes = logits.shape[1]
        if classes < 3:
            raise TrainingError("the loss 'guided-complement' needs at least 3 classes; with 2 it has no gradient")
        log_guide = -self.alpha * F.cross_entropy(logits, labels, reduction="none")
        highest = math.log(classes - 1)
        # 1 − guide · H/highest, written so that it does not round to 0 near the optimum.
        missing = _missing_entropy(logits, labels)
        return (torch.exp(log_guide) * missing - highest * torch.expm1(log_guide)).mean() / math.log(classes)


def _missing_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """log(C−1) − H(q), the divergence of q from the uniform distribution, shape (B,), ≥ 0 but for rounding."""
    log_q = off_label(logits, labels).log_softmax(dim=1)
    return math.log(logits.shape[1] - 1) + (log_q.exp() * log_q).sum(dim=1)
