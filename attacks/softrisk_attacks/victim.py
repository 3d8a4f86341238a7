"""A model as attacks see it: float32 logits in eval mode, on a copy."""

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_attacks.errors import AttackError

ROUNDING = 1e-4
"""Relative to the largest logit: a margin below it may be undone by another batch, runtime or processor."""


class Victim(nn.Module):
    """A copy of a model, ready to be attacked, so that the caller's model is not touched.

    Convolutions run fastest with the channels last, forwards and backwards.

    Attributes:
        device: Where the model computes.
        classes: Number of its logits.
    """

    def __init__(
        self, model: nn.Module, sample: NDArray[np.float32] | Tensor, device: torch.device | None = None
    ) -> None:
        """Copy a model.

        Args:
            model: Maps (B, C, H, W) in [0, 1] to logits (B, classes).
            sample: Some inputs, shape (B, C, H, W).
            device: Where the copy computes; None for where the model does.

        Raises:
            AttackError: If the model gives no finite logits of two or more classes.
        """
        super().__init__()
        self.model = copy.deepcopy(model).float().eval().requires_grad_(False)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        tensor = next(self.model.parameters(), next(self.model.buffers(), None))
        self.device = device or (torch.device("cpu") if tensor is None else tensor.device)
        self.model.to(self.device)
        logits = self.logits(torch.as_tensor(sample).to(self.device))
        if logits.ndim != 2 or len(logits) != len(sample) or logits.shape[1] < 2:
            raise AttackError(f"an attack needs logits (B, classes) of 2 or more classes, got {tuple(logits.shape)}")
        if not bool(logits.isfinite().all()):
            raise AttackError("an attack needs finite logits: one that compares with NaN finds every input robust")
        self.classes = int(logits.shape[1])

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits with their graph, shape (B, classes)."""
        logits: Tensor = self.model(inputs.contiguous(memory_format=torch.channels_last))
        return logits

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits without a graph, shape (B, classes)."""
        with torch.no_grad():
            logits: Tensor = self(inputs)
        return logits

    def tensor(self, values: NDArray[np.generic]) -> Tensor:
        """An array on the model's device."""
        return torch.from_numpy(values).to(self.device)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest logit of a wrong class minus the logit of the label, shape (B,); positive where the model errs."""
    own = logits.gather(1, labels[:, None])
    wrong = logits.scatter(1, labels[:, None], -torch.inf)
    return wrong.amax(dim=1) - own[:, 0]


def surely_fooled(logits: Tensor, labels: Tensor) -> Tensor:
    """Where the model errs by more than rounding could undo, shape (B,)."""
    return beyond_rounding(margin(logits, labels), logits)


def beyond_rounding(margins: Tensor, logits: Tensor) -> Tensor:
    """Where a margin is larger than what rounding could undo, shape (B,).

    Args:
        margins: Shape (B,).
        logits: That they are differences of, shape (B, …, classes).
    """
    return margins > ROUNDING * logits.abs().flatten(start_dim=1).amax(dim=1)
