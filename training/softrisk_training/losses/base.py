"""What every loss is, and the pieces that several of them are made of."""

from abc import ABC, abstractmethod
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from softrisk_training.errors import TrainingError

IGNORED: Final = -100
"""The label of padding, which no loss looks at; the same number as in torch and in transformers."""


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


def off_label(values: Tensor, labels: Tensor) -> Tensor:
    """The entries of classes other than the label, shape (B, C − 1), in class order."""
    batch, classes = values.shape
    others = torch.ones_like(values, dtype=torch.bool).scatter_(1, labels[:, None], False)
    return values[others].view(batch, classes - 1)


def kept_tokens(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of sequences as one batch, without padding.

    Args:
        logits: Shape (…, C).
        labels: Shape (…,); `IGNORED` for padding.

    Returns:
        Logits of shape (n, C) and labels of shape (n,).

    Raises:
        TrainingError: If nothing is kept.
    """
    rows, truth = logits.flatten(end_dim=-2), labels.flatten()
    kept = truth != IGNORED
    if not bool(kept.any()):
        raise TrainingError(f"all labels are {IGNORED}, which stands for padding: there is nothing to learn from")
    # Indexing copies, and a vocabulary is wide.
    return (rows, truth) if bool(kept.all()) else (rows[kept], truth[kept])


def not_negative(name: str, value: float) -> float:
    """The value, if it can be a weight or an exponent.

    Raises:
        TrainingError: If it is below 0 or not a number.
    """
    if not value >= 0:
        raise TrainingError(f"{name} must not be negative, got {value:g}")
    return value
