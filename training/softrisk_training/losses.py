"""Losses of one signature: `forward(logits (B, C), labels (B,)) -> scalar`.

Notation: z logits, p = softmax(z), y the label, N = the classes other than y. Everything is computed from logits in
log space, so that values and gradients stay finite at logits of ±1e4; roots are √(v + 1e-12), because √v has no
gradient at 0.
"""

import inspect
from abc import ABC, abstractmethod
from typing import ClassVar, Final, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softrisk_training.errors import TrainingError

DRSLForm = Literal["logit", "authors", "conditional", "probability"]

ROOT_EPSILON: Final = 1e-12
DEFAULT_TAU: Final[dict[DRSLForm, float]] = {"logit": 1.0, "authors": 1e-3, "conditional": 1.0, "probability": 1.0}


class Loss(nn.Module, ABC):
    """A classification loss that knows its own name and settings, so that a checkpoint can record them.

    Attributes:
        name: The name that `make_loss` and the command line know it by.
        settings: The arguments it was made with, by name.
    """

    name: ClassVar[str]

    def __init__(self, **settings: float | str) -> None:
        super().__init__()
        self.settings = settings

    @abstractmethod
    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch.

        Args:
            logits: Shape (B, C), C ≥ 2.
            labels: Shape (B,), int64 in [0, C).

        Returns:
            A scalar.
        """


class CrossEntropy(Loss):
    """CE = −log p_y, mean over the batch: the maximum-likelihood loss."""

    name = "ce"

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean CE."""
        return F.cross_entropy(logits, labels)


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


class DRSL(Loss):
    """CE + τ · penalty: the distribution-restrained softmax loss (Wang et al., arXiv 2303.12363).

    The paper adds to CE a distance d(softmax(z), average) over the classes other than the label: an attack tends to
    end in the runner-up class, and a flat non-label distribution has no runner-up. The four readings of d are the
    forms below. In each, with two classes N has one member, which is its own mean, and the distance is 0: `authors` is
    exactly 0, and the forms with a root √(0 + 1e-12) = 1e-6, a constant without gradient.

    `logit`: mean over the batch of √( mean_{j∈N} (z_j − mean_N z)² ). log p_j = z_j − logsumexp z differs from z_j by
    a constant of the sample, which the deviation from the mean cancels: the spread of the logits *is* the spread of
    the log-softmax. It is shift-invariant, is counted in nats whatever C and B are, and its gradient, proportional to
    (z_j − mean_N z) / spread on N and 0 on the label, keeps its size when all p_j are near 0.

    `authors`: Σ_batch Σ_{j∈N} (z_j − mean_N z)², as in the authors' code, with their weight b = τ. The sum is not
    divided by B, so that τ has to be tuned anew for every batch size: each sample weighs τ·B against the mean CE.
    Its gradient is 2τ (z_j − mean_N z) on N and 0 on the label. Their vectorised class divides the mean by C where
    this, like their loop, divides by C − 1.

    `conditional`: mean over the batch of ‖q − 1/(C−1)‖₂ with q_j = p_j / Σ_{k∈N} p_k, the softmax renormalised over
    N: the distance from the uniform distribution, given that the label is not it. p_y cancels in q, so that it does
    not fade as the label is learnt; in contrast to `logit` it is bounded by 1 and looks at the largest p_j only.

    `probability`: mean over the batch of √( Σ_{j∈N} (p_j − mean_N p)² ), the formula read literally. All p_j, and the
    gradient with them, vanish as p_y → 1, so that it hardly acts; it is here for comparison.

    Args:
        form: One of the four.
        tau: τ ≥ 0, the weight of the penalty. 0 gives CE; None the default of the form: 1, and 0.001, the authors'
            own choice, for `authors`.
    """

    name = "drsl"

    def __init__(self, form: DRSLForm = "logit", tau: float | None = None) -> None:
        if form not in get_args(DRSLForm):
            raise TrainingError(f"unknown DRSL form {form!r}: choose one of {', '.join(get_args(DRSLForm))}")
        tau = DEFAULT_TAU[form] if tau is None else tau
        if tau < 0:
            raise TrainingError(f"tau must not be negative, got {tau:g}")
        super().__init__(form=form, tau=tau)
        self.form: DRSLForm = form
        self.tau = tau

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """CE + τ · penalty."""
        return F.cross_entropy(logits, labels) + self.tau * self.penalty(logits, labels)

    def penalty(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The term that is added to CE, without its weight: a scalar ≥ 0."""
        if self.form == "probability":
            others = off_label(logits.softmax(dim=1), labels)
        elif self.form == "conditional":
            others = off_label(logits, labels).softmax(dim=1)
        else:
            others = off_label(logits, labels)
        squares = (others - others.mean(dim=1, keepdim=True)).square()
        if self.form == "authors":
            return squares.sum()
        squared_distance = squares.mean(dim=1) if self.form == "logit" else squares.sum(dim=1)
        return (squared_distance + ROOT_EPSILON).sqrt().mean()


def off_label(values: Tensor, labels: Tensor) -> Tensor:
    """The entries of classes other than the label, shape (B, C − 1), in class order."""
    batch, classes = values.shape
    others = torch.ones_like(values, dtype=torch.bool).scatter_(1, labels[:, None], False)
    return values[others].view(batch, classes - 1)


LOSSES: Final[dict[str, type[Loss]]] = {
    loss.name: loss for loss in (CrossEntropy, MeanAbsoluteError, GeneralizedCrossEntropy, LabelSmoothing, DRSL)
}
"""Every loss, by its name."""


def make_loss(name: str, **settings: float | str) -> Loss:
    """A loss from its name and settings, as a command line or a checkpoint gives them.

    Args:
        name: A key of `LOSSES`.
        **settings: Arguments of that loss; those not given take their defaults.

    Raises:
        TrainingError: If there is no such loss, if it has no such setting, or if a value is out of range.
    """
    if name not in LOSSES:
        raise TrainingError(f"unknown loss {name!r}: choose one of {', '.join(LOSSES)}")
    accepted = list(inspect.signature(LOSSES[name]).parameters) if "__init__" in vars(LOSSES[name]) else []
    for setting in settings:
        if setting not in accepted:
            known = f"it takes {' and '.join(accepted)}" if accepted else "it takes none"
            raise TrainingError(f"the loss {name!r} has no setting {setting!r}: {known}")
    return LOSSES[name](**settings)
