"""The Square attack of someone who is told a score with every answer: first a wrong label, then a low score."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from softrisk_attacks.adaptive import Best, Scoring
from softrisk_attacks.attack import Family, Found
from softrisk_attacks.black_box import Square
from softrisk_attacks.victim import Victim, margin


@dataclass(frozen=True)
class SelectiveSquare(Square):
    """Squares that raise the margin until the label is wrong, then squares that lower the score while it stays wrong.

    What `SelectivePGD` does with gradients, by random search. All queries are spent on every input.

    Attributes:
        score: What the defender flags by; needs no gradient.
    """

    name: ClassVar[str] = "selective Square"
    family: ClassVar[Family] = "adaptive"

    score: Scoring = field(repr=False, kw_only=True)

    def label_margin(self, logits: Tensor, labels: Tensor) -> Tensor:
        """By how much the label is wrong, shape (B,)."""
        return margin(logits, labels)

    def gain(self, victim: Victim, points: Tensor, logits: Tensor) -> Tensor:
        """What is raised where the label is wrong, shape (B,)."""
        return -self.score(victim, points, logits)

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Begin with vertical stripes, then try square after square."""
        best = Best(self, victim, self.candidate(0, inputs, inputs, generator), labels)
        for query in range(1, self.queries):
            best.ask(self.candidate(query, inputs, best.points, generator))
        return Found(best.points)
