"""Attackers who know the nonconformity score and have its gradient.

Those who evade want a wrong label that looks ordinary; those who flood want honest inputs, label unchanged, to look
strange. All take signed gradient steps that grow shorter, judge every iterate, and hand over the best: one that meets
the condition on the label and, among these, has the lowest score, or for flooding the highest.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from softrisk_attacks.apgd import random_points, wrong_classes
from softrisk_attacks.attack import Attack, Family, Found, require_positive
from softrisk_attacks.errors import AttackError
from softrisk_attacks.victim import ROUNDING, Victim, margin

Classifier = Callable[[Tensor], Tensor]
"""From points (B, C, H, W) to logits (B, classes), with their graph. A `Victim` is one."""

Scoring = Callable[[Classifier, Tensor, Tensor], Tensor]
"""From classifier, points (B, C, H, W) and their logits (B, classes) to nonconformity (B,), larger is stranger;
differentiable with respect to the points. A score may ask the classifier about changed points."""

Condition = Callable[[Tensor], Tensor]
"""From logits (B, classes) to by how much a condition on the prediction is met, (B,)."""


def expected(scores: Sequence[Scoring]) -> Scoring:
    """The mean of several scores: expectation over what a defender has drawn and an attacker does not know.

    Athalye et al., "Synthesizing robust adversarial examples", ICML 2018. All draws are made beforehand, so that the
    iterates of an attack are compared by the same measure.
    """

    def mean(classifier: Classifier, points: Tensor, logits: Tensor) -> Tensor:
        return torch.stack([score(classifier, points, logits) for score in scores]).mean(dim=0)

    return mean


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
    def direction(self, iterate: "Iterate", condition: Condition, labels: Tensor) -> Tensor:
        """Where to step, shape (B, C, H, W); of any length.

        Args:
            iterate: Where the attack stands.
            condition: What this run wants of the prediction.
            labels: True classes, shape (B,).
        """

    def label_margin(self, logits: Tensor, labels: Tensor) -> Tensor:
        """By how much the condition on the label is met, shape (B,)."""
        wrong = margin(logits, labels)
        return wrong if self.evades else -wrong

    def gain(self, victim: Victim, points: Tensor, logits: Tensor) -> Tensor:
        """What is raised where the condition on the label is met, shape (B,)."""
        score = self.score(victim, points, logits)
        return -score if self.evades else score

    def conditions(self, clean: Tensor, labels: Tensor) -> Iterator[Condition]:
        """What is wanted of the prediction, one after the other, each with all restarts.

        Args:
            clean: Logits on the inputs themselves, shape (B, classes).
            labels: True classes, shape (B,).
        """
        yield lambda logits: self.label_margin(logits, labels)

    def support(self, inputs: Tensor) -> Tensor:
        """1 where an input may be moved and 0 elsewhere, both of shape (B, C, H, W)."""
        return torch.ones_like(inputs)

    def stride(self, slope: Tensor) -> Tensor:
        """A step of length 1 in the maximum norm along a slope, both (B, C, H, W)."""
        return slope.sign()

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Run for every condition from every start."""
        low, high = self.box(inputs)
        best, support = Best(self, victim, inputs, labels), self.support(inputs)
        for condition in self.conditions(victim.logits(inputs), labels):
            for run in range(self.restarts):
                start = inputs if run == 0 else random_points(low, high, generator)
                points = inputs + support * (start - inputs)
                for step in range(self.steps):
                    points = points.detach().requires_grad_()
                    logits = victim(points)
                    iterate = Iterate(points, logits, self.gain(victim, points, logits))
                    uphill = self.stride(support * self.direction(iterate, condition, labels))
                    best.offer(iterate)
                    length = self.epsilon / 2 * (1 - step / self.steps)
                    points = (points.detach() + length * uphill).clamp(low, high)
                best.ask(points)
        return Found(best.points)


@dataclass(frozen=True)
class Iterate:
    """Points of an attack with what is known of them.

    Attributes:
        points: Shape (B, C, H, W).
        logits: On them, shape (B, classes); with a graph that begins at the points, where there is one.
        gain: What the attacker raises there, shape (B,); likewise.
    """

    points: Tensor
    logits: Tensor
    gain: Tensor


class Aim(Protocol):
    """What an attacker on label and score wants."""

    def label_margin(self, logits: Tensor, labels: Tensor) -> Tensor:
        """By how much the condition on the label is met, shape (B,)."""

    def gain(self, victim: Victim, points: Tensor, logits: Tensor) -> Tensor:
        """What is raised where the condition on the label is met, shape (B,)."""


class Best:
    """Keeps, for each input, the point that serves the attacker best.

    Attributes:
        points: Shape (B, C, H, W).
    """

    def __init__(self, attack: Aim, victim: Victim, inputs: Tensor, labels: Tensor) -> None:
        self._attack, self._victim, self._labels = attack, victim, labels
        self.points = inputs.clone()
        self._met, self._value = self._judge(self._answer(inputs))

    def ask(self, points: Tensor) -> None:
        """Ask about points, and take them where they are better."""
        self.offer(self._answer(points))

    def offer(self, iterate: Iterate) -> None:
        """Take points where they are better."""
        met, value = self._judge(iterate)
        better = (met & ~self._met) | ((met == self._met) & (value > self._value))
        self.points[better] = iterate.points.detach()[better]
        self._met, self._value = self._met | met, torch.where(better, value, self._value)

    def _answer(self, points: Tensor) -> Iterate:
        with torch.no_grad():
            logits = self._victim(points)
            return Iterate(points, logits, self._attack.gain(self._victim, points, logits))

    def _judge(self, iterate: Iterate) -> tuple[Tensor, Tensor]:
        logits = iterate.logits.detach()
        reached = self._attack.label_margin(logits, self._labels)
        met = _surely(reached, logits)
        return met, torch.where(met, iterate.gain.detach().to(reached.dtype), reached)


@dataclass(frozen=True)
class SelectivePGD(AdaptiveAttack):
    """Steps for the label until it has turned, then for the score, and back when it turns back.

    Bryniarski et al., "Evading adversarial example detection defenses with orthogonal projected gradient descent",
    ICLR 2022. With `orthogonal` a step for the score is freed of what would turn the label back. They project every
    step, for the label as well; where the score is the gap of two logits both slopes are opposite, and nothing is left.

    Attributes:
        orthogonal: Whether steps for the score are projected.
        surrogate: What `score` is, where something stands in for the defender's own; None if it is that.
    """

    orthogonal: bool = False
    surrogate: str | None = field(default=None, kw_only=True)

    @property
    def name(self) -> str:
        """`selective PGD` or `orthogonal PGD`, or `selective PGD on …`."""
        name = "orthogonal PGD" if self.orthogonal else "selective PGD"
        return name if self.surrogate is None else f"{name} on {self.surrogate}"

    def direction(self, iterate: Iterate, condition: Condition, labels: Tensor) -> Tensor:
        """The slope of the aim that is not reached yet."""
        reached = condition(iterate.logits)
        met = _surely(reached, iterate.logits)[:, None, None, None]
        (of_label,) = torch.autograd.grad(reached.sum(), iterate.points, retain_graph=True)
        (of_score,) = torch.autograd.grad(iterate.gain.sum(), iterate.points)
        return torch.where(met, _unopposed(of_score, of_label) if self.orthogonal else of_score, of_label)


@dataclass(frozen=True)
class TargetedSelectivePGD(SelectivePGD):
    """Selective PGD towards the most likely wrong classes, one after the other.

    The nearest wrong class is not always the one that looks most ordinary, all the less where each predicted class is
    compared with its own calibration rows.

    Attributes:
        targets: How many of the wrong classes are tried, those with the largest logits on the clean input; more than
            there are is an error.
    """

    targets: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(targets=self.targets)

    @property
    def name(self) -> str:
        """`targeted selective PGD`."""
        return "targeted selective PGD"

    def _size(self) -> tuple[int | None, str]:
        return self.steps, f"×{self.restarts} ×{self.targets} targets"

    def conditions(self, clean: Tensor, labels: Tensor) -> Iterator[Condition]:
        """That the prediction is the target."""
        for target in wrong_classes(clean, labels, self.targets).unbind(dim=1):
            yield partial(_predicts, target)


@dataclass(frozen=True)
class QuietPGD(SelectivePGD):
    """Selective PGD that moves each pixel in proportion to its slope, and none where the image is smooth.

    Signed steps move pixels that hardly matter as far as those that do, and lift the noise floor of the whole image: a
    score that looks at the image sees just that.

    Attributes:
        share: Of the pixels, in (0, 1]: only the roughest may be moved, by the differences to their neighbours.
    """

    share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise AttackError(f"share of pixels must be above 0 and at most 1, got {self.share:g}")

    @property
    def name(self) -> str:
        """`quiet PGD`, or `quiet PGD on 10% of the pixels`."""
        return "quiet PGD" if self.share == 1 else f"quiet PGD on {self.share:.0%} of the pixels"

    def support(self, inputs: Tensor) -> Tensor:
        """The roughest pixels."""
        if self.share == 1:
            return torch.ones_like(inputs)
        local = _local_range(inputs)
        limit = torch.quantile(local.flatten(1), 1 - self.share, dim=1)[:, None, None, None]
        # Not the limit itself, which may be that of a whole flat background.
        return (local > limit).expand_as(inputs).to(inputs)

    def stride(self, slope: Tensor) -> Tensor:
        """In proportion to the slope."""
        largest = slope.abs().amax(dim=(1, 2, 3), keepdim=True)
        return slope / largest.clamp(min=torch.finfo(slope.dtype).tiny)


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

    def direction(self, iterate: Iterate, condition: Condition, labels: Tensor) -> Tensor:
        """The slope of the sum."""
        value = condition(iterate.logits) + self.weight * iterate.gain
        (slope,) = torch.autograd.grad(value.sum(), iterate.points)
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

    def direction(self, iterate: Iterate, condition: Condition, labels: Tensor) -> Tensor:
        """Down the squared distance from the nearest row of another class."""
        logits, points = iterate.logits, iterate.points
        bank = self.bank.to(logits)
        distances = torch.cdist(logits, bank).square()
        distances = distances.masked_fill(bank.argmax(dim=1)[None] == labels[:, None], torch.inf)
        (slope,) = torch.autograd.grad(-distances.amin(dim=1).sum(), points)
        return slope


def _predicts(target: Tensor, logits: Tensor) -> Tensor:
    """By how much the prediction is the target, shape (B,)."""
    return -margin(logits, target)


def _local_range(inputs: Tensor) -> Tensor:
    """Largest less smallest value among a pixel and its eight neighbours, over all channels, shape (B, 1, H, W)."""

    def largest(values: Tensor) -> Tensor:
        return nn.functional.max_pool2d(values, 3, stride=1, padding=1).amax(dim=1, keepdim=True)

    return largest(inputs) + largest(-inputs)


def _surely(reached: Tensor, logits: Tensor) -> Tensor:
    """Where a condition is met by more than rounding could undo, shape (B,)."""
    return reached > ROUNDING * logits.detach().abs().amax(dim=1)


def _unopposed(slope: Tensor, other: Tensor) -> Tensor:
    """A slope without what it has against another."""
    flat, along = slope.flatten(1), other.flatten(1)
    length = along.square().sum(dim=1, keepdim=True).clamp(min=torch.finfo(slope.dtype).tiny)
    opposing = (flat * along).sum(dim=1, keepdim=True).clamp(max=0) / length
    return (flat - opposing * along).view_as(slope)
