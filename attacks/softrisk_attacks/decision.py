"""An attack that asks for the predicted class only: HopSkipJump."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import torch
from art.attacks.evasion import HopSkipJump as ArtHopSkipJump
from art.estimators.classification import BlackBoxClassifierNeuralNetwork
from numpy.typing import NDArray
from torch import Tensor

from softrisk_attacks.apgd import random_points
from softrisk_attacks.attack import Attack, Family, Found, require_positive
from softrisk_attacks.toolbox import seeded
from softrisk_attacks.victim import Victim

STARTS: Final = 100
"""Images of noise among which a start is looked for, as in the paper, beside the other inputs of the batch."""


@dataclass(frozen=True)
class HopSkipJump(Attack):
    """Walk along the border by estimated gradients, in ℓ∞ (Chen, Jordan and Wainwright, IEEE S&P 2020).

    ART runs it image by image, some 0.1 ms a query on a small model, so choose a `subset`. An input's walk ends with
    its first wrong prediction inside the ball, or when its queries are spent; ART's own limits are numbers of
    iterations, its walk never ends where rounding has undone its start, and it draws that start from a generator that
    nobody can seed. So starts are chosen here: the nearest (ℓ2) image that is predicted otherwise, among the batch's
    other inputs and uniform noise. An input without one stands.

    Attributes:
        queries: At most so many for each input.
    """

    name: ClassVar[str] = "HopSkipJump"
    family: ClassVar[Family] = "decision-based"

    queries: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(queries=self.queries)

    def _size(self) -> tuple[int | None, str]:
        return self.queries, ""

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Walk with every input that is right."""
        noise = torch.zeros(STARTS, *inputs.shape[1:], device=inputs.device)
        pool = torch.cat([inputs, random_points(noise, noise + 1, generator)])
        classes = victim.logits(pool).argmax(dim=1)
        distances = torch.cdist(inputs.flatten(1), pool.flatten(1))
        distances[classes[None, :] == labels[:, None]] = torch.inf
        nearest, starts = distances.min(dim=1)
        points = inputs.clone()
        for row in torch.nonzero((classes[: len(inputs)] == labels) & nearest.isfinite())[:, 0].tolist():
            low, high = self.box(inputs[row])
            oracle = _Oracle(victim, int(labels[row]), low, high, self.queries)
            with seeded(generator):
                fooling = oracle.walk(inputs[row : row + 1], pool[starts[row]][None])
            points[row] = inputs[row] if fooling is None else fooling
        return Found(points)


class _Ended(Exception):
    """The walk is over: a point has been found, or the queries are spent."""


class _Oracle:
    """Answers with classes, counts the questions, and ends the walk."""

    def __init__(self, victim: Victim, label: int, low: Tensor, high: Tensor, queries: int) -> None:
        self._victim, self._label, self._low, self._high = victim, label, low, high
        self._left = queries
        self._fooling: Tensor | None = None

    def walk(self, original: Tensor, start: Tensor) -> Tensor | None:
        """The first point inside the box that is predicted otherwise, or None."""
        runner = ArtHopSkipJump(
            BlackBoxClassifierNeuralNetwork(
                self._predict, tuple(original.shape[1:]), self._victim.classes, clip_values=(0.0, 1.0)
            ),
            norm=np.inf,
            max_iter=self._left,  # an iteration asks more than once
            batch_size=256,
            verbose=False,
        )
        with suppress(_Ended):
            runner.generate(original.cpu().numpy(), x_adv_init=start.cpu().numpy())
        return self._fooling

    def _predict(self, values: NDArray[Any]) -> NDArray[np.float32]:
        if self._left <= 0:
            raise _Ended
        points = self._victim.tensor(values[: self._left].astype(np.float32))
        self._left -= len(points)
        classes = self._victim.logits(points).argmax(dim=1)
        inside = ((points >= self._low) & (points <= self._high)).flatten(1).all(dim=1)
        for index in torch.nonzero(inside & (classes != self._label))[:1, 0].tolist():
            self._fooling = points[index]
            raise _Ended
        if len(points) < len(values):
            raise _Ended
        answers: NDArray[np.float32] = np.eye(self._victim.classes, dtype=np.float32)[classes.cpu().numpy()]
        return answers
