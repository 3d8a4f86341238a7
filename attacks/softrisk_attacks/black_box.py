"""Attacks that ask for logits only: Square, and noise as the least that any attack must beat."""

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from softrisk_attacks.apgd import random_points
from softrisk_attacks.attack import Attack, Family, Found, require_positive
from softrisk_attacks.victim import Victim, margin
from softrisk_attacks.worst import Worst

FIRST_SHARE: Final = 0.8
"""Share of the pixels in the first square (p of the paper, as in the authors' standard evaluation)."""

HALVINGS: Final = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the queries after which the share of pixels is halved."""


@dataclass(frozen=True)
class Square(Attack):
    """The Square attack (Andriushchenko et al., ECCV 2020, Algorithms 1 and 2): random squares, kept if they help.

    ART's version (1.20) asks three times for each square, draws one square for all inputs at once and never one at
    the last row or column. Here each input has its own, for one query, and only inputs that still stand are asked.

    Attributes:
        queries: At most so many for each input.
    """

    name: ClassVar[str] = "Square"
    family: ClassVar[Family] = "score-based"

    queries: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(queries=self.queries)

    def _size(self) -> tuple[int | None, str]:
        return self.queries, ""

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Begin with vertical stripes, then try square after square."""
        worst = Worst(victim, inputs, labels)
        rows = worst.standing
        # Attacks begin with the stripes even where the clean input is worse, as in the paper.
        current, reached = inputs.clone(), torch.full((len(inputs),), -torch.inf, device=inputs.device)
        for query in range(self.queries):
            if len(rows) == 0:
                break
            candidate = self.candidate(query, inputs[rows], current[rows], generator)
            logits = victim.logits(candidate)
            worst.offer(rows, candidate, logits)
            own = margin(logits, labels[rows])
            better = own > reached[rows]
            current[rows[better]], reached[rows[better]] = candidate[better], own[better]
            rows = rows[~worst.fooled[rows]]
        return Found(worst.points)

    def candidate(self, query: int, originals: Tensor, current: Tensor, generator: torch.Generator) -> Tensor:
        """What is asked next: stripes first, then the point at hand with one more square.

        Args:
            query: Number of queries spent on each of these inputs.
            originals: The inputs themselves, shape (B, C, H, W).
            current: The best point of each so far, of the same shape.
            generator: Source of all randomness, on the CPU.
        """
        count, channels, height, width = originals.shape
        if query == 0:
            moved = originals + self._signs((count, channels, 1, width), generator).to(originals.device)
        else:
            side = round((_share(query / self.queries) * height * width) ** 0.5)
            square = _squares(count, height, width, max(1, min(side, height, width)), generator).to(originals.device)
            colour = self._signs((count, channels, 1, 1), generator).to(originals.device)
            moved = torch.where(square, originals + colour, current)
        return moved.clamp(*self.box(originals))

    def _signs(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return (2 * torch.randint(2, shape, generator=generator) - 1) * self.epsilon


@dataclass(frozen=True)
class RandomNoise(Attack):
    """Points of the box, drawn uniformly; what noise can do is no attack's merit.

    Attributes:
        draws: Points for each input that still stands.
    """

    name: ClassVar[str] = "random noise"
    family: ClassVar[Family] = "score-based"

    draws: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(draws=self.draws)

    def _size(self) -> tuple[int | None, str]:
        return self.draws, ""

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Draw, and keep the worst of all draws."""
        worst = Worst(victim, inputs, labels)
        left = self.draws
        while left > 0 and len(rows := worst.standing) > 0:
            # The fewer inputs are left, the more draws each gets at a time, so that batches stay large.
            at_once = min(left, max(1, len(inputs) // len(rows)))
            points = random_points(*self.box(inputs[rows.repeat(at_once)]), generator)
            for some, logits in zip(points.chunk(at_once), victim.logits(points).chunk(at_once), strict=True):
                worst.offer(rows, some, logits)
            left -= at_once
        return Found(worst.points)


def _share(progress: float) -> float:
    return float(FIRST_SHARE / 2 ** sum(progress > each for each in HALVINGS))


def _squares(count: int, height: int, width: int, side: int, generator: torch.Generator) -> Tensor:
    """A square at a random place in each of `count` images, as a mask of shape (count, 1, height, width)."""
    top = torch.randint(height - side + 1, (count, 1), generator=generator)
    left = torch.randint(width - side + 1, (count, 1), generator=generator)
    rows, columns = torch.arange(height), torch.arange(width)
    inside_rows = (rows >= top) & (rows < top + side)
    inside_columns = (columns >= left) & (columns < left + side)
    return (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
