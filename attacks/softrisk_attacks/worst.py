"""The worst point found so far for each input, and which inputs still stand."""

import torch
from torch import Tensor

from softrisk_attacks.victim import Victim, margin, surely_fooled


class Worst:
    """Keeps, for each input, the point with the largest margin of a wrong class over the label.

    An input that is wrong without an attack does not stand, whatever its margin.

    Attributes:
        points: Shape (B, C, H, W).
        labels: True classes, shape (B,).
        clean: Logits of the inputs themselves, shape (B, classes).
        margin: Of the points, shape (B,).
        fooled: Where nothing needs to be searched any more, shape (B,).
    """

    def __init__(self, victim: Victim, inputs: Tensor, labels: Tensor) -> None:
        self.points = inputs.clone()
        self.labels = labels
        self.clean = victim.logits(inputs)
        self.margin = margin(self.clean, labels)
        self.fooled = self.clean.argmax(dim=1) != labels

    @property
    def standing(self) -> Tensor:
        """Indices of the inputs that no point fools yet."""
        return torch.nonzero(~self.fooled)[:, 0]

    @property
    def right(self) -> Tensor:
        """Indices of the inputs that the model is right about without an attack."""
        return torch.nonzero(self.clean.argmax(dim=1) == self.labels)[:, 0]

    def offer(self, rows: Tensor, points: Tensor, logits: Tensor) -> Tensor:
        """Take points of some inputs where they are worse, and say where, shape (len(rows),)."""
        labels = self.labels[rows]
        reached = margin(logits, labels)
        worse = reached > self.margin[rows]
        self.points[rows[worse]] = points[worse]
        self.margin[rows[worse]] = reached[worse]
        self.fooled[rows] |= surely_fooled(logits, labels)
        return worse
