"""Attacks on a twin of the model, for a model whose own gradients lead nowhere."""

from dataclasses import dataclass, field
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from softrisk_attacks.apgd import random_points
from softrisk_attacks.ascent import ascend
from softrisk_attacks.attack import Attack, Family, Found, require_positive
from softrisk_attacks.errors import AttackError
from softrisk_attacks.objectives import Kind, untargeted
from softrisk_attacks.victim import Victim
from softrisk_attacks.worst import Worst

_OBJECTIVES: Final[tuple[Kind, ...]] = ("ce", "margin")


@dataclass(frozen=True)
class Transfer(Attack):
    """APGD on a twin by cross entropy and by margin; the point that is worse for the model counts.

    No run ends when the twin is fooled: points just behind the twin's border seldom fool anything else.

    Attributes:
        twin: Another model of the same classes, such as one trained by cross entropy. Not part of `settings`.
        steps: Gradient steps of each of the two runs.
        restarts: How often both are run.
    """

    name: ClassVar[str] = "transfer"
    family: ClassVar[Family] = "transfer"

    twin: nn.Module = field(repr=False)
    steps: int = 100
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(steps=self.steps, restarts=self.restarts)

    def _size(self) -> tuple[int | None, str]:
        return self.steps, f"×{self.restarts}"

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Attack the twin with the inputs on which the model still stands."""
        twin = Victim(self.twin, inputs[:1], victim.device)
        if twin.classes != victim.classes:
            raise AttackError(f"the twin must have the model's {victim.classes} classes, it has {twin.classes}")
        worst = Worst(victim, inputs, labels)
        for _ in range(self.restarts):
            for kind in _OBJECTIVES:
                rows = worst.standing
                if len(rows) == 0:
                    break
                low, high = self.box(inputs[rows])
                aim = untargeted(kind, twin.logits(inputs[rows]), labels[rows])
                radius = torch.full((len(rows), 1, 1, 1), self.epsilon, device=inputs.device)
                start = random_points(low, high, generator)
                points = ascend(twin, (low, high), radius, start, aim, self.steps, until_fooled=False).peak
                worst.offer(rows, points, victim.logits(points))
        return Found(worst.points)
