"""PRSL: restrain the strongest wrong classes of each token."""

from typing import Final, Literal, get_args

from torch import Tensor
from torch.nn import functional as F

from softrisk_training.errors import TrainingError
from softrisk_training.losses.base import Loss, kept_tokens, not_negative

PRSLMode = Literal["across-tokens", "within-token", "topk-mass"]

DEFAULT_MODE: Final[PRSLMode] = "across-tokens"

DEFAULT_END: Final = 6

DEFAULT_WEIGHT: Final[dict[PRSLMode, float]] = {"across-tokens": 1e-5, "within-token": 0.1, "topk-mass": 1.0}


class PRSL(Loss):
    """CE + weight · penalty: the partially recentralised softmax loss (Wang et al., arXiv 2402.03627).

    Meant for sequences, where the classes are words and each token has a label of its own; a classifier's batch of B
    images counts as B tokens. n tokens are kept, those whose label is not padding. Of each, the wrong logits are
    ordered, the largest first, and those of the ranks `start` … `end` − 1 are its window, K = `end` − `start` of them;
    `start` = 0 gives the K strongest. All modes leave the logit of the label alone but for `topk-mass`, and none
    changes with a common shift of all logits.

    `across-tokens`: −Σ_i log softmax(m)_i = n · log Σ_i e^{m_i} − Σ_i m_i with m_i the mean of the window of token i,
    as in the authors' code, with their weight b. The softmax runs over the *tokens*, not over the classes. Its minimum,
    n · log n, is where all m_i are equal, and ∂/∂m_i = n · softmax(m)_i − 1: strong wrong words are pulled to one level
    in all tokens, and nothing is asked of their spread within a token. It is a sum: each token weighs b · n against the
    mean CE, and `authors_weight` finds a b for a weight per token.

    `within-token`: mean over tokens of Σ (z_(k) − mean of the window)². With the window of all wrong classes it is the
    penalty of DRSL in its form `squared`; K = 1 leaves nothing to restrain.

    `topk-mass`: mean over tokens of Σ p_(k), the probability of the window: what the abstract seems to say. It fades as
    the label is learnt.

    Args:
        mode: One of the three.
        start: First rank of the window, from 0.
        end: Rank after the last; at most the number of wrong classes.
        weight: ≥ 0; 0 gives CE, None the default of the mode: the authors' 1e-5 for `across-tokens`.
    """

    name = "prsl"

    def __init__(
        self, mode: PRSLMode = DEFAULT_MODE, start: int = 0, end: int = DEFAULT_END, weight: float | None = None
    ) -> None:
        if mode not in get_args(PRSLMode):
            raise TrainingError(f"unknown PRSL mode {mode!r}: choose one of {', '.join(get_args(PRSLMode))}")
        if not 0 <= start < end:
            raise TrainingError(f"the window must have ranks 0 ≤ start < end, got {start} … {end}")
        if mode == "within-token" and end - start < 2:
            raise TrainingError(f"a single rank has no spread within a token: widen the window {start} … {end}")
        weight = not_negative("weight", DEFAULT_WEIGHT[mode] if weight is None else weight)
        super().__init__(mode=mode, start=start, end=end, weight=weight)
        self.mode: PRSLMode = mode
        self.start = start
        self.end = end
        self.weight = weight

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """CE of the kept tokens, a mean, + weight · penalty.

        Args:
            logits: Shape (…, C), such as (B, C) or (B, T, C).
            labels: Shape (…,), int64 in [0, C), or `IGNORED` for padding.

        Returns:
            A scalar.

        Raises:
            TrainingError: If there are too few classes for the window, or all is padding.
        """
        rows, truth = kept_tokens(logits, labels)
        return F.cross_entropy(rows, truth) + self.weight * self._penalty(rows, truth)

    def penalty(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The term that is added to CE, without its weight, of the same arguments: a scalar ≥ 0."""
        return self._penalty(*kept_tokens(logits, labels))

    def _penalty(self, logits: Tensor, labels: Tensor) -> Tensor:
        wrong = logits.shape[1] - 1
        if self.end > wrong:
            raise TrainingError(f"the window ends at rank {self.end}, but there are {wrong} wrong classes; narrow it")
        values = logits.log_softmax(dim=1) if self.mode == "topk-mass" else logits
        others = values.scatter(1, labels[:, None], -float("inf"))
        window = others.topk(self.end, dim=1).values[:, self.start :]
        if self.mode == "topk-mass":
            return window.exp().sum(dim=1).mean()
        means = window.mean(dim=1)
        if self.mode == "within-token":
            return (window - means[:, None]).square().sum(dim=1).mean()
        # Not n · logsumexp − sum, whose two large numbers cancel.
        return -means.log_softmax(dim=0).sum()
