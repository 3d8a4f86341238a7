"""APGD with an objective to choose, untargeted and towards each wrong class."""

from dataclasses import dataclass
from typing import ClassVar, Final, get_args

import torch
from torch import Tensor

from softrisk_attacks.ascent import ascend
from softrisk_attacks.attack import Attack, Family, Found, require_positive
from softrisk_attacks.errors import AttackError
from softrisk_attacks.objectives import Kind, Objective, towards, untargeted
from softrisk_attacks.victim import Victim
from softrisk_attacks.worst import Worst

_SHORT: Final[dict[Kind, str]] = {"ce": "CE", "margin": "margin", "scaled-ce": "scaled CE"}


@dataclass(frozen=True)
class APGD(Attack):
    """Auto-PGD away from the label, from random starts (Croce and Hein, ICML 2020).

    Attributes:
        objective: What is raised: the cross entropy of the label, the margin of a wrong class over it, or the cross
            entropy of logits that are scaled so that it is not saturated.
        steps: Gradient steps in each run.
        restarts: Runs, each from its own random point of the ball, on the inputs that still stand.
        until_fooled: Leave an input alone once the model errs on it. Otherwise every input takes every step, and
            ends as wrong as the attack can make it: what a detector has to be judged by.
    """

    family: ClassVar[Family] = "iterative"

    objective: Kind = "ce"
    steps: int = 100
    restarts: int = 1
    until_fooled: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(steps=self.steps, restarts=self.restarts)
        if self.objective not in get_args(Kind):
            raise AttackError(f"objective must be one of {', '.join(get_args(Kind))}, got {self.objective!r}")

    @property
    def name(self) -> str:
        """`APGD-CE`, `APGD-margin` or `APGD-scaled CE`."""
        return f"APGD-{_SHORT[self.objective]}"

    def _size(self) -> tuple[int | None, str]:
        return self.steps, f"×{self.restarts}"

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Run from every start."""
        worst = Worst(victim, inputs, labels)
        aim = untargeted(self.objective, worst.clean, labels)
        trace = torch.full((self.steps, len(inputs)), torch.nan)
        for _ in range(self.restarts):
            trace = run_from_random_start(
                self, victim, inputs, worst, aim, self.steps, generator, until_fooled=self.until_fooled
            )
        return Found(worst.points, trace)


@dataclass(frozen=True)
class TargetedAPGD(Attack):
    """Auto-PGD towards wrong classes, one after the other, by the difference of two logits.

    The classes come in the order of their logits on the clean input. Croce and Hein divide the difference by a third
    one (targeted DLR), which says nothing on a model with equal wrong logits.

    Attributes:
        steps: Gradient steps towards each class.
        targets: How many of the wrong classes are tried; more than there are is an error.
        until_fooled: As for `APGD`.
    """

    name: ClassVar[str] = "APGD-T"
    family: ClassVar[Family] = "targeted"

    steps: int = 100
    targets: int = 9
    until_fooled: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(steps=self.steps, targets=self.targets)

    def _size(self) -> tuple[int | None, str]:
        return self.steps, f"×{self.targets} targets"

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Run towards every target."""
        worst = Worst(victim, inputs, labels)
        trace = torch.full((self.steps, len(inputs)), torch.nan)
        for target in wrong_classes(worst.clean, labels, self.targets).unbind(dim=1):
            aim = towards(target, labels)
            trace = run_from_random_start(
                self, victim, inputs, worst, aim, self.steps, generator, until_fooled=self.until_fooled
            )
        return Found(worst.points, trace)


def wrong_classes(clean: Tensor, labels: Tensor, count: int) -> Tensor:
    """The wrong classes with the largest logits, largest first, shape (B, count).

    Raises:
        AttackError: If there are fewer.
    """
    there = clean.shape[1] - 1
    if count > there:
        raise AttackError(f"targets must be at most {there}, as the model has {there + 1} classes, got {count}")
    return clean.scatter(1, labels[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :count]


def run_from_random_start(
    attack: Attack,
    victim: Victim,
    inputs: Tensor,
    worst: Worst,
    aim: Objective,
    steps: int,
    generator: torch.Generator,
    *,
    until_fooled: bool = True,
) -> Tensor:
    """One run from a random point of the ball on the inputs that still stand; what it finds goes to `worst`.

    Without `until_fooled` it runs on all inputs that are right without an attack, and to its end.

    Returns:
        The trace, shape (steps, B), NaN for inputs that did not stand.
    """
    trace = torch.full((steps, len(inputs)), torch.nan)
    rows = worst.standing if until_fooled else worst.right
    if len(rows) > 0:
        low, high = attack.box(inputs[rows])
        start = random_points(low, high, generator)
        radius = torch.full((len(rows), 1, 1, 1), attack.epsilon, device=inputs.device)
        ascent = ascend(victim, (low, high), radius, start, aim.select(rows), steps, until_fooled=until_fooled)
        worst.offer(rows, ascent.worst, ascent.logits)
        trace[:, rows.cpu()] = ascent.trace
    return trace


def random_points(low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform between the bounds."""
    share = torch.rand(low.shape, generator=generator).to(low.device)
    return torch.minimum(low + share * (high - low), high)
