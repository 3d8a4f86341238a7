"""The smallest ℓ∞ radius at which each input can be fooled, by bisection with Auto-PGD.

One such run gives robust accuracy at every radius: the share of inputs whose smallest radius is larger.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_attacks.apgd import random_points, wrong_classes
from softrisk_attacks.ascent import ascend
from softrisk_attacks.attack import Attack, Family, Found, require_positive, run_attack
from softrisk_attacks.objectives import Objective, towards, untargeted
from softrisk_attacks.victim import Victim, surely_fooled
from softrisk_attacks.worst import Worst

HALVINGS: Final = 8
"""Of the way from an input to a point that fools: forward passes alone, cheap against gradient steps."""


@dataclass(frozen=True)
class BisectedAPGD(Attack):
    """Bisects, for each input, the radius at which APGD fools the model.

    Every radius is tried by the margin, from the fooling point at hand drawn towards the input, then, where that
    fails, towards single wrong classes. Whatever is found is drawn towards the input along a straight line, and its
    distance is the next upper bound. A failure proves nothing: results are upper bounds of the smallest radius. More
    targets find other minima and help more than more rounds.

    Attributes:
        epsilon: The largest radius tried.
        steps: Gradient steps of each run.
        rounds: Radii tried for each input after the first.
        targets: Wrong classes tried singly at each radius, in the order of their logits on the clean input.
    """

    name: ClassVar[str] = "bisected APGD"
    family: ClassVar[Family] = "minimum-norm"

    steps: int = 30
    rounds: int = 8
    targets: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(steps=self.steps, rounds=self.rounds, targets=self.targets)

    def _size(self) -> tuple[int | None, str]:
        return self.steps, f"×{self.rounds} rounds ×{self.targets} targets"

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Shrink the ball around every input."""
        worst = Worst(victim, inputs, labels)
        targets = wrong_classes(worst.clean, labels, self.targets)
        search = _Search(victim, inputs, labels, worst.standing, self.epsilon)
        for round_ in range(self.rounds + 1):
            radius = search.radius(first=round_ == 0)
            rows = search.rows
            aims = [untargeted("margin", worst.clean, labels)]
            aims += [towards(target, labels) for target in targets.unbind(dim=1)]
            for turn, aim in enumerate(aims):
                if len(rows) == 0:
                    break
                # The first run is warm; those towards single classes begin somewhere else.
                warm = turn == 0 and round_ > 0
                rows = search.run(rows, radius, aim, self.steps, None if warm else generator)
            search.conclude(radius, failed=rows)
        return Found(search.points)


class _Search:
    """Bounds of the smallest radius and the nearest fooling point of each input."""

    def __init__(self, victim: Victim, inputs: Tensor, labels: Tensor, rows: Tensor, epsilon: float) -> None:
        self._victim, self._inputs, self._labels = victim, inputs, labels
        self._low = torch.zeros(len(inputs), device=inputs.device)
        self._high = torch.full_like(self._low, epsilon)
        self.rows = rows
        """Inputs whose radius is searched."""
        self.points = inputs.clone()

    def radius(self, *, first: bool) -> Tensor:
        """The next to try of every input, shape (B,): the largest, then halfway between the bounds."""
        return self._high.clone() if first else (self._low + self._high) / 2

    def run(
        self, rows: Tensor, radius: Tensor, aim: Objective, steps: int, generator: torch.Generator | None
    ) -> Tensor:
        """Try a radius for some inputs, from the point at hand or, with a generator, from a random one.

        Returns:
            The inputs for which nothing was found.
        """
        inputs, radii = self._inputs[rows], radius[rows][:, None, None, None]
        low, high = (inputs - radii).clamp(min=0), (inputs + radii).clamp(max=1)
        if generator is None:
            start = inputs + (self.points[rows] - inputs) * (radii / self._high[rows][:, None, None, None])
            start = start.clamp(low, high)
        else:
            start = random_points(low, high, generator)
        ascent = ascend(self._victim, (low, high), radii, start, aim.select(rows), steps)
        fooled = surely_fooled(ascent.logits, self._labels[rows])
        self._take(rows[fooled], ascent.worst[fooled])
        return rows[~fooled]

    def conclude(self, radius: Tensor, *, failed: Tensor) -> None:
        """Raise the lower bound where nothing was found; where nothing is found at the largest radius, give up."""
        self._low[failed] = radius[failed]
        untouched = (self.points[self.rows] == self._inputs[self.rows]).flatten(1).all(dim=1)
        self.rows = self.rows[~untouched]

    def _take(self, rows: Tensor, points: Tensor) -> None:
        """Keep fooling points, drawn towards their inputs as far as they still fool."""
        if len(rows) == 0:
            return
        inputs, labels = self._inputs[rows], self._labels[rows]
        right = torch.zeros(len(rows), 1, 1, 1, device=inputs.device)
        wrong = torch.ones_like(right)
        for _ in range(HALVINGS):
            middle = (right + wrong) / 2
            fooled = surely_fooled(self._victim.logits(inputs + middle * (points - inputs)), labels)
            fooled = fooled[:, None, None, None]
            right, wrong = torch.where(fooled, right, middle), torch.where(fooled, middle, wrong)
        nearest = torch.where(wrong < 1, inputs + wrong * (points - inputs), points)
        self.points[rows] = nearest
        self._high[rows] = (nearest - inputs).abs().flatten(1).amax(dim=1)
        self._low[rows] = torch.minimum(self._low[rows], self._high[rows])


def minimal_epsilon(
    model: nn.Module,
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    attack: BisectedAPGD,
    *,
    seed: int,
    batch_size: int = 256,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float32]:
    """The smallest radius found for each input: 0 where the model is wrong anyway, ∞ where nothing was found.

    The arguments and errors are those of `run_attack`. An outcome that is there already says the same by
    `outcome.distance(inputs)`.

    Returns:
        ℓ∞ distances in units of [0, 1] pixels, shape (N,).
    """
    outcome = run_attack(model, inputs, labels, attack, seed=seed, batch_size=batch_size, on_progress=on_progress)
    return outcome.distance(inputs)
