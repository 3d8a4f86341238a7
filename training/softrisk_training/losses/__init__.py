"""Losses of one signature: `forward(logits (B, C), labels (B,)) -> scalar`.

Notation: z logits, p = softmax(z), y the label, N = the classes other than y, q_j = p_j / Σ_{k∈N} p_k on N. Everything
is computed from logits in log space, so that values and gradients stay finite at logits of ±1e4. docs/losses.md is a
table of all of them.
"""

import inspect
from typing import Final

from softrisk_training.errors import TrainingError
from softrisk_training.losses.base import IGNORED, Loss, kept_tokens
from softrisk_training.losses.complement import ComplementObjective, GuidedComplementEntropy, ReverseCrossEntropy
from softrisk_training.losses.drsl import DEFAULT_FORM, DRSL, DRSLForm, authors_weight, per_sample_weight
from softrisk_training.losses.likelihood import CrossEntropy, FocalLoss, LabelSmoothing, LogitSqueezing
from softrisk_training.losses.noise_robust import GeneralizedCrossEntropy, MeanAbsoluteError, SymmetricCrossEntropy
from softrisk_training.losses.prsl import DEFAULT_END, DEFAULT_MODE, PRSL, PRSLMode

__all__ = [
    "DEFAULT_END",
    "DEFAULT_FORM",
    "DEFAULT_MODE",
    "DRSL",
    "IGNORED",
    "LOSSES",
    "PRSL",
    "DRSLForm",
    "Loss",
    "PRSLMode",
    "authors_weight",
    "kept_tokens",
    "make_loss",
    "per_sample_weight",
]

LOSSES: Final[dict[str, type[Loss]]] = {
    loss.name: loss
    for loss in (
        CrossEntropy,
        LabelSmoothing,
        FocalLoss,
        LogitSqueezing,
        MeanAbsoluteError,
        GeneralizedCrossEntropy,
        SymmetricCrossEntropy,
        ReverseCrossEntropy,
        ComplementObjective,
        GuidedComplementEntropy,
        DRSL,
        PRSL,
    )
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
