"""An attack that asks for the predicted class only and needs few questions: RayS."""

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from softrisk_attacks.attack import Attack, Family, Found, require_positive
from softrisk_attacks.victim import Victim, surely_fooled

TOLERANCE: Final = 1e-3
"""Length to which the way to the border is bisected, as in the authors' code."""


@dataclass(frozen=True)
class RayS(Attack):
    """Search the direction of signs along which the border is nearest (Chen and Gu, KDD 2020).

    From all signs +1 it turns the signs of ever smaller blocks of pixels, keeps what shortens the way and bisects only
    then. It draws nothing at random. Each input has its own search, and every query asks about one point of each.

    Attributes:
        queries: At most so many for each input.
        press_on: Whether the search goes on inside the ball, so that the point at ε lies far behind the border;
            without it the first point inside the ball is handed over.
    """

    name: ClassVar[str] = "RayS"
    family: ClassVar[Family] = "decision-based"

    queries: int = 5000
    press_on: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(queries=self.queries)

    def _size(self) -> tuple[int | None, str]:
        return self.queries, "to the end" if self.press_on else ""

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Search, and hand over what lies inside the ball."""
        rays = _Rays(inputs)
        rows = torch.arange(len(inputs), device=inputs.device)
        # Whoever presses on has not asked about the point at ε yet, and keeps a query for it.
        for _ in range(self.queries - self.press_on):
            if len(rows) == 0:
                break
            rays.learn(rows, surely_fooled(victim.logits(rays.question(rows)), labels[rows]))
            if not self.press_on:
                rows = rows[rays.radius[rows] > self.epsilon]
        found = torch.nonzero(rays.radius <= self.epsilon)[:, 0]
        points = inputs.clone()
        points[found] = rays.along(found, rays.signs[found], rays.radius[found])
        if self.press_on and len(found) > 0:
            deepest = rays.along(found, rays.signs[found], torch.full_like(rays.radius[found], self.epsilon))
            fooled = surely_fooled(victim.logits(deepest), labels[found])
            points[found[fooled]] = deepest[fooled]
        return Found(points)


class _Rays:
    """For each input the best direction so far and the one that is tried.

    Attributes:
        signs: The best direction, shape (B, pixels).
        radius: Length of the way along it to a point that fools, ∞ before there is one, shape (B,).
    """

    def __init__(self, inputs: Tensor) -> None:
        self._inputs = inputs.flatten(1)
        self._shape = inputs.shape[1:]
        self.signs = torch.ones_like(self._inputs)
        self.radius = self._inputs.new_full((len(inputs),), torch.inf)
        self._trial = self.signs.clone()
        self._low = torch.zeros_like(self.radius)
        self._bisecting = torch.zeros_like(self.radius, dtype=torch.bool)
        self._level = torch.zeros_like(self.radius, dtype=torch.int64)
        self._block = torch.zeros_like(self._level)

    def along(self, rows: Tensor, signs: Tensor, length: Tensor) -> Tensor:
        """Points at a distance in a direction, cut with [0, 1], shape (len(rows), C, H, W)."""
        points = (self._inputs[rows] + length[:, None] * signs).clamp(0, 1)
        return points.view(len(rows), *self._shape)

    def question(self, rows: Tensor) -> Tensor:
        """The points to ask about next."""
        return self.along(rows, self._trial[rows], self._length(rows))

    def learn(self, rows: Tensor, fooled: Tensor) -> None:
        """Take the answers to the last question."""
        length, bisecting = self._length(rows), self._bisecting[rows]
        self.signs[rows[fooled]] = self._trial[rows[fooled]]
        self.radius[rows[fooled]] = length[fooled]
        self._low[rows] = torch.where(bisecting, torch.where(fooled, self._low[rows], length), 0)
        self._bisecting[rows] = (bisecting | fooled) & (self.radius[rows] - self._low[rows] > TOLERANCE)
        self._turn(rows[~self._bisecting[rows]])

    def _length(self, rows: Tensor) -> Tensor:
        # Nothing is further away than from black to white.
        radius = self.radius[rows].clamp(max=1)
        return torch.where(self._bisecting[rows], (self._low[rows] + radius) / 2, radius)

    def _turn(self, rows: Tensor) -> None:
        """Try the best direction with the signs of the next block turned."""
        pixels = self._inputs.shape[1]
        level, block = self._level[rows], self._block[rows]
        size = (pixels / 2.0**level).ceil().clamp(min=1).long()
        start = block * size
        place = torch.arange(pixels, device=rows.device)
        inside = (place >= start[:, None]) & (place < (start + size)[:, None])
        self._trial[rows] = torch.where(inside, -self.signs[rows], self.signs[rows])
        ended = start + size >= pixels
        self._level[rows] = torch.where(ended, level + 1, level)
        self._block[rows] = torch.where(ended, 0, block + 1)
