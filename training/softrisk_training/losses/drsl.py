"""DRSL, in all its forms, and the weights of its authors."""

from typing import Final, Literal, get_args

from torch import Tensor
from torch.nn import functional as F

from softrisk_training.errors import TrainingError
from softrisk_training.losses.base import Loss, not_negative, off_label

DRSLForm = Literal["squared", "logit", "authors", "authors-vectorised", "conditional", "probability"]

ROOT_EPSILON: Final = 1e-12
"""Roots are √(v + 1e-12), because √v has no gradient at 0."""

DEFAULT_FORM: Final[DRSLForm] = "squared"

DEFAULT_TAU: Final[dict[DRSLForm, float]] = {
    "squared": 1.0,
    "logit": 1.0,
    "authors": 1e-3,
    "authors-vectorised": 1e-3,
    "conditional": 1.0,
    "probability": 1.0,
}


class DRSL(Loss):
    """CE + τ · penalty: the distribution-restrained softmax loss (Wang et al., arXiv 2303.12363).

    The paper adds to CE a distance d(softmax(z), average) over the classes other than the label: an attack tends to
    end in the runner-up class, and a flat non-label distribution has no runner-up. The readings of d are the
    forms below. With two classes N has one member, which is its own mean, and the distance is 0: `squared` and
    `authors` are exactly 0, and the forms with a root √(0 + 1e-12) = 1e-6, a constant without gradient.
    (`authors-vectorised` is not 0.)

    `squared`: mean over the batch of Σ_{j∈N} (z_j − mean_N z)², the default: `authors` with a mean in place of the
    sum, so that τ = b·B does not depend on the batch. Its gradient is 2τ/B · (z_j − mean_N z) on N and 0 on the label:
    it grows with the spread, and so acts most on the sample with the largest.

    `logit`: mean over the batch of √( mean_{j∈N} (z_j − mean_N z)² ). log p_j = z_j − logsumexp z differs from z_j by
    a constant of the sample, which the deviation from the mean cancels: the spread of the logits *is* the spread of
    the log-softmax. It is shift-invariant, is counted in nats whatever C and B are, and its gradient, proportional to
    (z_j − mean_N z) / spread on N and 0 on the label, keeps its size when all p_j are near 0.

    `authors`: Σ_batch Σ_{j∈N} (z_j − mean_N z)², as in the authors' code, with their weight b = τ. The sum is not
    divided by B, so that τ has to be tuned anew for every batch size: each sample weighs τ·B against the mean CE.
    Its gradient is 2τ (z_j − mean_N z) on N and 0 on the label. `authors_weight` finds a b for a weight per sample.

    `authors-vectorised`: the same as the authors' vectorised class has it, which divides the sum over N by C instead
    of C − 1. That adds exactly Σ_batch (C−1) (mean_N z / C)² to `authors`: a small pull of the other logits to 0. It is
    the one form that is not invariant to a common shift of the logits; it is here to repeat what was published.

    `conditional`: mean over the batch of ‖q − 1/(C−1)‖₂ with q_j = p_j / Σ_{k∈N} p_k, the softmax renormalised over
    N: the distance from the uniform distribution, given that the label is not it. p_y cancels in q, so that it does
    not fade as the label is learnt; in contrast to `logit` it is bounded by 1 and looks at the largest p_j only.

    `probability`: mean over the batch of √( Σ_{j∈N} (p_j − mean_N p)² ), the formula read literally. All p_j, and the
    gradient with them, vanish as p_y → 1, so that it hardly acts; it is here for comparison.

    Args:
        form: One of the six.
        tau: τ ≥ 0, the weight of the penalty. 0 gives CE; None the default of the form: 1, and 0.001, the authors'
            own choice, for the two of theirs.

    Attributes:
        tau_share: How much of τ counts now, in [0, 1]; a warm-up raises it.
    """

    name = "drsl"

    def __init__(self, form: DRSLForm = DEFAULT_FORM, tau: float | None = None) -> None:
        if form not in get_args(DRSLForm):
            raise TrainingError(f"unknown DRSL form {form!r}: choose one of {', '.join(get_args(DRSLForm))}")
        tau = DEFAULT_TAU[form] if tau is None else tau
        super().__init__(form=form, tau=not_negative("tau", tau))
        self.form: DRSLForm = form
        self.tau = tau
        self.tau_share = 1.0

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """CE + τ · penalty."""
        return F.cross_entropy(logits, labels) + self.tau_share * self.tau * self.penalty(logits, labels)

    def penalty(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The term that is added to CE, without its weight: a scalar ≥ 0."""
        if self.form == "probability":
            others = off_label(logits.softmax(dim=1), labels)
        elif self.form == "conditional":
            others = off_label(logits, labels).softmax(dim=1)
        else:
            others = off_label(logits, labels)
        members = logits.shape[1] if self.form == "authors-vectorised" else others.shape[1]
        squares = (others - others.sum(dim=1, keepdim=True) / members).square()
        if self.form in ("authors", "authors-vectorised"):
            return squares.sum()
        if self.form == "squared":
            return squares.sum(dim=1).mean()
        squared_distance = squares.mean(dim=1) if self.form == "logit" else squares.sum(dim=1)
        return (squared_distance + ROOT_EPSILON).sqrt().mean()


def authors_weight(per_sample: float, batch_size: int) -> float:
    """The τ of the `authors` forms that gives the penalty of each sample this weight against the mean CE.

    CE is a mean over the batch and the authors' penalty a sum, CE + b Σ_i R_i = mean_i (CE_i + b·B·R_i). So the same b
    weighs twice as much in twice the batch, and a shorter last batch weighs less.

    Args:
        per_sample: b·B, ≥ 0.
        batch_size: B ≥ 1.

    Returns:
        b = per_sample / B.

    Raises:
        TrainingError: If an argument is out of range.
    """
    return not_negative("the weight", per_sample) / _batch(batch_size)


def per_sample_weight(authors: float, batch_size: int) -> float:
    """The weight of each sample's penalty against the mean CE, from the authors' b: the reverse of `authors_weight`.

    Args:
        authors: b ≥ 0.
        batch_size: B ≥ 1.

    Returns:
        b·B.

    Raises:
        TrainingError: If an argument is out of range.
    """
    return not_negative("the weight", authors) * _batch(batch_size)


def _batch(size: int) -> int:
    if size < 1:
        raise TrainingError(f"a batch has at least 1 sample, got {size}")
    return size
