"""Auto-PGD: ascent of an objective in the ℓ∞ ball with a step length that finds itself.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
ICML 2020, Algorithm 1. ART's version (1.20) returns the last best objective without asking whether an earlier iterate
fooled the model, compares the first step the wrong way round when it has a target, keeps no trace and takes three
passes a step. Here a step is one forward and one backward pass, every iterate is judged, and an input that is fooled
leaves the batch.
"""

import math
from dataclasses import dataclass, fields
from typing import Final, Self, TypeVar

import torch
from torch import Tensor, nn

from softrisk_attacks.objectives import Aim
from softrisk_attacks.victim import beyond_rounding

MOMENTUM: Final = 0.75
"""α of the paper: weight of the new step against the last move."""

RISING: Final = 0.75
"""ρ of the paper: a step length is kept if so large a share of its steps raised the objective."""

A = TypeVar("A", bound=Aim)


@dataclass(frozen=True)
class Ascent:
    """What one ascent found for B inputs.

    Attributes:
        worst: Iterates with the largest margin of the aim, shape (B, C, H, W).
        logits: On them, shape (B, …, classes).
        peak: Iterates with the largest objective, shape (B, C, H, W).
        trace: Largest objective so far after each step, shape (steps, B); NaN once fooled.
    """

    worst: Tensor
    logits: Tensor
    peak: Tensor
    trace: Tensor


def ascend(
    model: nn.Module,
    box: tuple[Tensor, Tensor],
    radius: Tensor,
    start: Tensor,
    aim: Aim,
    steps: int,
    *,
    until_fooled: bool = True,
) -> Ascent:
    """Run Auto-PGD.

    Args:
        model: In eval mode, its parameters without gradients.
        box: Smallest and largest allowed value of every pixel, shapes (B, C, H, W).
        radius: Of each input's ball, shape (B, 1, 1, 1); the first step is twice as long.
        start: In the box, shape (B, C, H, W).
        aim: What is raised, of B inputs.
        steps: Gradient steps.
        until_fooled: Let inputs leave once the aim is surely reached; otherwise all take all steps.
    """
    low, high = box
    value, uphill, logits = _climb(model, start, aim)
    found = Ascent(start.clone(), logits.clone(), start.clone(), torch.full((steps, len(start)), torch.nan))
    state = _State(
        rows=torch.arange(len(start), device=start.device),
        low=low,
        high=high,
        point=start,
        before=start,
        uphill=uphill,
        value=value,
        best_point=start,
        best_uphill=uphill,
        best_value=value,
        largest=aim.margin(logits),
        step=2 * radius,
        rises=torch.zeros_like(value),
        old_best=value,
        reduced=torch.ones_like(value, dtype=torch.bool),
    )
    if until_fooled:
        state, aim = _leave(state, aim, found, beyond_rounding(aim.margin(logits), logits))
    checkpoints = _checkpoints(steps)
    last = 0
    for k in range(steps):
        if len(state.rows) == 0:
            break
        reach = (state.point + state.step * state.uphill).clamp(state.low, state.high)
        if k > 0:
            reach = state.point + MOMENTUM * (reach - state.point) + (1 - MOMENTUM) * (state.point - state.before)
            reach = reach.clamp(state.low, state.high)
        value, state.uphill, logits = _climb(model, reach, aim, gradient=k < steps - 1)
        state.before, state.point = state.point, reach
        state.rises += value > state.value
        state.value = value
        state.keep_best()

        reached = aim.margin(logits)
        worse = reached > state.largest
        state.largest = torch.where(worse, reached, state.largest)
        found.worst[state.rows[worse]] = reach[worse]
        found.logits[state.rows[worse]] = logits[worse]
        if until_fooled:
            state, aim = _leave(state, aim, found, beyond_rounding(aim.margin(logits), logits))
        found.trace[k, state.rows.cpu()] = state.best_value.cpu()
        if k + 1 in checkpoints:
            state.adapt(k + 1 - last)
            last = k + 1
    found.peak[state.rows] = state.best_point
    return found


@dataclass
class _State:
    """Of the inputs that still take part."""

    rows: Tensor
    low: Tensor
    high: Tensor
    point: Tensor
    before: Tensor
    uphill: Tensor
    value: Tensor
    best_point: Tensor
    best_uphill: Tensor
    best_value: Tensor
    largest: Tensor
    step: Tensor
    rises: Tensor
    old_best: Tensor
    reduced: Tensor

    def select(self, rows: Tensor) -> Self:
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def keep_best(self) -> None:
        better = self.value > self.best_value
        spread = better[:, None, None, None]
        self.best_point = torch.where(spread, self.point, self.best_point)
        self.best_uphill = torch.where(spread, self.uphill, self.best_uphill)
        self.best_value = torch.where(better, self.value, self.best_value)

    def adapt(self, taken: int) -> None:
        """Halve the step where it overshoots or nothing was gained, and go on there from the best point."""
        overshoots = self.rises < RISING * taken
        stuck = ~self.reduced & (self.best_value == self.old_best)
        self.reduced = overshoots | stuck
        spread = self.reduced[:, None, None, None]
        self.step = torch.where(spread, self.step / 2, self.step)
        self.point = torch.where(spread, self.best_point, self.point)
        self.uphill = torch.where(spread, self.best_uphill, self.uphill)
        self.value = torch.where(self.reduced, self.best_value, self.value)
        self.old_best = self.best_value
        self.rises = torch.zeros_like(self.rises)


def _leave(state: _State, aim: A, found: Ascent, fooled: Tensor) -> tuple[_State, A]:
    if not bool(fooled.any()):
        return state, aim
    found.peak[state.rows[fooled]] = state.best_point[fooled]
    return state.select(~fooled), aim.select(~fooled)


def _climb(model: nn.Module, points: Tensor, aim: Aim, *, gradient: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Objective, sign of its gradient, and logits."""
    if not gradient:
        with torch.no_grad():
            logits = aim.logits(model, points)
            return aim(logits), torch.zeros_like(points), logits
    points = points.detach().requires_grad_()
    logits = aim.logits(model, points)
    value = aim(logits)
    (slope,) = torch.autograd.grad(value.sum(), points)
    return value.detach(), slope.sign(), logits.detach()


def _checkpoints(steps: int) -> frozenset[int]:
    """After which steps the step length is looked at: at 22 % of them, then in ever shorter periods."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return frozenset(math.ceil(share * steps) for share in shares[1:])
