"""What an attack by gradients raises: a number for each input, larger for the attacker.

There is no difference of logits ratio (DLR) here. It divides the margin by z_(1) − z_(3), so that on a model whose
wrong logits are equal it is −1 whatever the margin, with a gradient of zero; a loss that flattens the wrong classes
drives a model there. The margin itself has no such hole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, Self, cast

import torch
from torch import Tensor, nn

from softrisk_attacks.victim import margin

Kind = Literal["ce", "margin", "scaled-ce"]
LEAD: Final = 10.0
"""Of the label in scaled cross entropy: not saturated in float32, and the strongest wrong class still decides."""

_Value = Callable[[Tensor, Tensor, Tensor], Tensor]


class Aim(Protocol):
    """What an ascent raises, of B inputs, and when it has succeeded."""

    def logits(self, model: nn.Module, points: Tensor) -> Tensor:
        """What the model says of points, shape (B, …, classes), and what the other methods take."""

    def __call__(self, logits: Tensor) -> Tensor:
        """What is raised, shape (B,)."""

    def margin(self, logits: Tensor) -> Tensor:
        """How far the attack is beyond success, in logits, shape (B,); negative short of it."""

    def select(self, rows: Tensor) -> Self:
        """The same for some of the inputs, by mask or by index."""


@dataclass(frozen=True)
class Objective:
    """An objective with what it needs to know of each input.

    Attributes:
        value: Of logits (B, classes), labels (B,) and `own`, shape (B,).
        labels: True classes, shape (B,).
        own: A target or temperature for each input, shape (B,).
    """

    value: _Value
    labels: Tensor
    own: Tensor

    def logits(self, model: nn.Module, points: Tensor) -> Tensor:
        """Of the model, shape (B, classes)."""
        return cast(Tensor, model(points))

    def __call__(self, logits: Tensor) -> Tensor:
        """The objective of each input, shape (B,)."""
        return self.value(logits, self.labels, self.own)

    def margin(self, logits: Tensor) -> Tensor:
        """Of a wrong class over the label, shape (B,)."""
        return margin(logits, self.labels)

    def select(self, rows: Tensor) -> "Objective":
        """The same for some of the inputs, by mask or by index."""
        return Objective(self.value, self.labels[rows], self.own[rows])


def untargeted(kind: Kind, clean: Tensor, labels: Tensor) -> Objective:
    """Away from the label.

    Args:
        kind: `ce`, the cross entropy of the label; `margin`, the largest wrong logit minus that of the label;
            `scaled-ce`, the cross entropy of logits scaled, for each input, so that the label begins with a lead of
            `LEAD`. In float32 cross entropy loses its gradient where the label leads by much more.
        clean: Logits of the inputs before the attack, shape (B, classes).
        labels: True classes, shape (B,).
    """
    match kind:
        case "ce":
            return Objective(_cross_entropy, labels, torch.ones_like(clean[:, 0]))
        case "margin":
            return Objective(_margin, labels, labels)
        case "scaled-ce":
            temperature = margin(clean, labels).abs() / LEAD
            return Objective(_cross_entropy, labels, temperature.clamp(min=torch.finfo(clean.dtype).eps))


def towards(targets: Tensor, labels: Tensor) -> Objective:
    """Towards a target class: its logit minus that of the label."""
    return Objective(_difference, labels, targets)


def _cross_entropy(logits: Tensor, labels: Tensor, temperature: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits / temperature[:, None], labels, reduction="none")


def _margin(logits: Tensor, labels: Tensor, _: Tensor) -> Tensor:
    return margin(logits, labels)


def _difference(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None]))[:, 0]
