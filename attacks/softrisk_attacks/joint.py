"""Ascent in the ℓ2 norm of several inputs of a model, together or some of them.

The ball is that of all moved inputs side by side: one radius, which the attacker spends where it helps most. Also the
inner attack of adversarial training: torch only.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from softrisk_attacks.errors import AttackError
from softrisk_attacks.victim import margin

Objective = Literal["margin", "cross-entropy", "target"]
Model = Callable[..., Tensor]
"""From inputs, each (B, …), to logits (B, classes)."""

TINY: Final = 1e-12
"""Added to norms of gradients, which may be zero."""


@dataclass(frozen=True)
class Ball:
    """Where an attack may go.

    Attributes:
        epsilon: Radius > 0, in the ℓ2 norm of all moved inputs together.
        moved: For each input whether it may be changed.
        domains: For each input its least and greatest value; None if any value will do.
    """

    epsilon: float
    moved: tuple[bool, ...]
    domains: tuple[tuple[float, float] | None, ...]

    def __post_init__(self) -> None:
        if not self.epsilon > 0 or not any(self.moved) or len(self.moved) != len(self.domains):
            raise AttackError(
                f"a ball needs a radius greater than 0, an input that moves and a domain for each input, got "
                f"{self.epsilon:g}, {self.moved} and {self.domains}"
            )

    def project(self, points: Sequence[Tensor], centres: Sequence[Tensor]) -> list[Tensor]:
        """The nearest points of the ball, then of the domain: both are convex, and the centre lies in both."""
        length = joint_norm([point - centre for point, centre in zip(points, centres, strict=True)])
        factor = (self.epsilon / (length + TINY)).clamp(max=1)
        return [
            # What does not move stays the same to the last bit.
            _within(centre + _each(factor, point) * (point - centre), domain) if moves else centre
            for point, centre, moves, domain in zip(points, centres, self.moved, self.domains, strict=True)
        ]


def joint_norm(parts: Sequence[Tensor]) -> Tensor:
    """ℓ2 norm of all parts side by side, shape (B,)."""
    return torch.stack([part.flatten(1).square().sum(dim=1) for part in parts]).sum(dim=0).sqrt()


def random_start(centres: Sequence[Tensor], ball: Ball, generator: np.random.Generator) -> list[Tensor]:
    """Points in uniformly random directions, at a distance of ε · U^(1/2)."""
    noise = [
        torch.from_numpy(generator.standard_normal(centre.shape, dtype=np.float32)).to(centre) * moves
        for centre, moves in zip(centres, ball.moved, strict=True)
    ]
    distance = torch.from_numpy(generator.random(len(centres[0]), dtype=np.float32)).to(centres[0]).sqrt()
    factor = ball.epsilon * distance / (joint_norm(noise) + TINY)
    return ball.project(
        [centre + _each(factor, each) * each for centre, each in zip(centres, noise, strict=True)], centres
    )


def joint_ascent(
    model: Model,
    centres: Sequence[Tensor],
    labels: Tensor,
    ball: Ball,
    *,
    steps: int,
    step_size: float,
    objective: Objective,
    start: Sequence[Tensor] | None = None,
    targets: Tensor | None = None,
) -> list[Tensor]:
    """Projected gradient ascent with steps of one length (PGD in ℓ2; with a single step FGM).

    Args:
        model: What is attacked; gradients of its parameters are left alone.
        centres: The inputs, each (B, …).
        labels: True classes, shape (B,).
        ball: Where the attack may go.
        steps: Gradient steps, ≥ 1.
        step_size: ℓ2 length of a step.
        objective: What is climbed: the largest wrong logit minus that of the label, the cross entropy of the label, or
            the logit of a target minus that of the label.
        start: Points of the ball; None for the inputs themselves.
        targets: Wrong classes, shape (B,), for `target`: the nearest border need not be that of the largest logit.

    Returns:
        Of all points that were met, for each row that with the largest margin.
    """
    centres = [centre.detach() for centre in centres]
    points = [each.detach() for each in (centres if start is None else start)]
    best, most = points, torch.full_like(labels, -math.inf, dtype=torch.float32)
    for step in range(steps + 1):
        leaves = [
            point.detach().requires_grad_() if moves else point for point, moves in zip(points, ball.moved, strict=True)
        ]
        logits = model(*leaves)
        beyond = margin(logits, labels)
        better = beyond.detach() > most
        most = torch.where(better, beyond.detach(), most)
        best = [torch.where(_each(better, old), new, old) for new, old in zip(points, best, strict=True)]
        if step == steps:
            break
        match objective:
            case "margin":
                value = beyond.sum()
            case "cross-entropy":
                value = F.cross_entropy(logits, labels, reduction="sum")
            case "target":
                assert targets is not None
                value = (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).sum()
        found = iter(torch.autograd.grad(value, [leaf for leaf in leaves if leaf.requires_grad]))
        gradients = [
            next(found) if moves else torch.zeros_like(point) for point, moves in zip(points, ball.moved, strict=True)
        ]
        factor = step_size / (joint_norm(gradients) + TINY)
        points = ball.project(
            [point + _each(factor, slope) * slope for point, slope in zip(points, gradients, strict=True)], centres
        )
    return best


def _each(values: Tensor, like: Tensor) -> Tensor:
    """One value a row, in a shape that broadcasts."""
    return values.view(-1, *[1] * (like.dim() - 1))


def _within(point: Tensor, domain: tuple[float, float] | None) -> Tensor:
    return point if domain is None else point.clamp(*domain)
