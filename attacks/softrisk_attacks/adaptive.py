"""Attackers who know the nonconformity score and have its gradient.

Those who evade want a wrong label that looks ordinary; those who flood want honest inputs, label unchanged, to look
strange. All take signed gradient steps that grow shorter, judge every iterate, and hand over the best: one that meets
the condition on the label and, among these, has the lowest score, or for flooding the highest.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from softrisk_attacks.apgd import random_points
from softrisk_attacks.attack import Attack, Family, Found, require_positive
from softrisk_attacks.errors import AttackError
from softrisk_attacks.victim import ROUNDING, Victim, margin

Scoring = Callable[[Tensor], Tensor]
"""From logits (B, classes) to nonconformity (B,), larger is stranger; differentiable."""


@dataclass(frozen=True)
class AdaptiveAttack(Attack):
    """An attack on label and score together.

    Attributes:
        score: What the defender flags by.
        steps: Gradient steps in each run.
        restarts: Runs: the first from the input itself, the others from random points of the ball.
    """

    family: ClassVar[Family] = "adaptive"
    evades: ClassVar[bool] = True
    """Whether a wrong label and a low score are wanted; else the label's own and a high one."""

    score: Scoring = field(repr=False)
    steps: int = 100
    restarts: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(steps=self.steps, restarts=self.restarts)

    def _size(self) -> tuple[int | None, str]:
        return self.steps, f"×{self.restarts}"

    @abstractmethod
    def direction(self, points: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Where to step, shape (B, C, H, W); only signs count.

        Args:
            points: Which the graph of the logits begins at, shape (B, C, H, W).
            logits: On them, with their graph, shape (B, classes).
            labels: True classes, shape (B,).
        """

    def label_margin(self, logits: Tensor, labels: Tensor) -> Tensor:
        """By how much the condition on the label is met, shape (B,)."""
        wrong = margin(logits, labels)
        return wrong if self.evades else -wrong

    def gain(self, logits: Tensor) -> Tensor:
        """What is raised where the condition on the label is met, shape (B,)."""
        return -self.score(logits) if self.evades else self.score(logits)

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Run from every start."""
        low, high = self.box(inputs)
        best = _Best(self, victim, inputs, labels)
        for run in range(self.restarts):
            points = inputs if run == 0 else random_points(low, high, generator)
            for step in range(self.steps):
                points = points.detach().requires_grad_()
                logits = victim(points)
                uphill = self.direction(points, logits, labels).sign()
                best.offer(points.detach(), logits.detach())
                length = self.epsilon / 2 * (1 - step / self.steps)
                points = (points.detach() + length * uphill).clamp(low, high)
            best.offer(points, victim.logits(points))
        return Found(best.points)


class _Best:
    """Keeps, for each input, the point that serves the attacker best."""

    def __init__(self, attack: AdaptiveAttack, victim: Victim, inputs: Tensor, labels: Tensor) -> None:
        self._attack, self._labels = attack, labels
        self.points = inputs.clone()
        self._met, self._value = self._judge(victim.logits(inputs))

    def offer(self, points: Tensor, logits: Tensor) -> None:
        """Take points where they are better."""
        met, value = self._judge(logits)
        better = (met & ~self._met) | ((met == self._met) & (value > self._value))
        self.points[better] = points[better]
        self._met, self._value = self._met | met, torch.where(better, value, self._value)

    def _judge(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        reached = self._attack.label_margin(logits, self._labels)
        met = reached > ROUNDING * logits.abs().amax(dim=1)
        return met, torch.where(met, self._attack.gain(logits).to(reached.dtype), reached)


@dataclass(frozen=True)
class SelectivePGD(AdaptiveAttack):
    """Steps for the label until it has turned, then for the score, and back when it turns back.

    Bryniarski et al., "Evading adversarial example detection defenses with orthogonal projected gradient descent",
    ICLR 2022. With `orthogonal` a step for the score is freed of what would turn the label back. They project every
    step, for the label as well; where the score is the gap of two logits both slopes are opposite, and nothing is left.

    Attributes:
        orthogonal: Whether steps for the score are projected.
    """

    orthogonal: bool = False

    @property
    def name(self) -> str:
        """`selective PGD` or `orthogonal PGD`."""
        return "orthogonal PGD" if self.orthogonal else "selective PGD"

    def direction(self, points: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The slope of the aim that is not reached yet."""
        reached = self.label_margin(logits, labels)
        met = (reached > ROUNDING * logits.detach().abs().amax(dim=1))[:, None, None, None]
        (of_label,) = torch.autograd.grad(reached.sum(), points, retain_graph=True)
        (of_score,) = torch.autograd.grad(self.gain(logits).sum(), points)
        return torch.where(met, _unopposed(of_score, of_label) if self.orthogonal else of_score, of_label)


@dataclass(frozen=True)
class AlarmFlooding(SelectivePGD):
    """Raises the score of an honest input while its label stays.

    Attacks on confidence alone: Galil and El-Yaniv, "Disrupting deep uncertainty estimation without harming accuracy",
    NeurIPS 2021.
    """

    evades: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """`alarm flooding`."""
        return "alarm flooding"


@dataclass(frozen=True)
class WeightedPGD(AdaptiveAttack):
    """Climbs the margin of a wrong class over the label − λ · score.

    Cross entropy in place of the margin has no slope left where the model is sure, and the score wins everywhere.

    Attributes:
        weight: λ ≥ 0.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weight >= 0:
            raise AttackError(f"weight must not be negative, got {self.weight:g}")

    @property
    def name(self) -> str:
        """`PGD on margin − 0.1·score`."""
        return f"PGD on margin − {self.weight:g}·score"

    def direction(self, points: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The slope of the sum."""
        value = self.label_margin(logits, labels) + self.weight * self.gain(logits)
        (slope,) = torch.autograd.grad(value.sum(), points)
        return slope


@dataclass(frozen=True)
class LogitMimicry(AdaptiveAttack):
    """Steps towards the logits of a clean input of another class: whatever is made of logits cannot tell the two apart.

    Of the bank's rows with another prediction than the label, each input takes the nearest to its own logits.

    Attributes:
        bank: Logits of clean inputs, shape (M, classes).
    """

    name: ClassVar[str] = "logit mimicry"

    bank: Tensor = field(repr=False, kw_only=True)

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Run from every start.

        Raises:
            AttackError: If the bank has no row of another class for some input.
        """
        if len(set(self.bank.argmax(dim=1).tolist())) < 2:
            raise AttackError("logit mimicry needs logits of clean inputs of at least two predicted classes")
        return super().perturb(victim, inputs, labels, generator)

    def direction(self, points: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Down the squared distance from the nearest row of another class."""
        bank = self.bank.to(logits)
        distances = torch.cdist(logits, bank).square()
        distances = distances.masked_fill(bank.argmax(dim=1)[None] == labels[:, None], torch.inf)
        (slope,) = torch.autograd.grad(-distances.amin(dim=1).sum(), points)
        return slope


def _unopposed(slope: Tensor, other: Tensor) -> Tensor:
    """A slope without what it has against another."""
    flat, along = slope.flatten(1), other.flatten(1)
    length = along.square().sum(dim=1, keepdim=True).clamp(min=torch.finfo(slope.dtype).tiny)
    opposing = (flat * along).sum(dim=1, keepdim=True).clamp(max=0) / length
    return (flat - opposing * along).view_as(slope)
