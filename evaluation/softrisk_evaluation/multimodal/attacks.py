"""Attacks in the ℓ2 norm of all modalities together, or of one alone, at rising radii."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softrisk_attacks.joint import Ball, Model, Objective, joint_ascent, joint_norm, random_start
from softrisk_attacks.victim import surely_fooled

STEP_RATIO: Final = 2.5
"""A step of 2.5·ε/steps reaches the border of the ball from any start, and has room to turn back."""

BATCH: Final = 100

Domains = tuple[tuple[float, float] | None, ...]


@dataclass(frozen=True)
class Effort:
    """How hard PGD tries at each radius.

    Attributes:
        steps: Gradient steps of each run.
        targets: Runs from the input itself, each towards one of so many wrong classes, the likeliest first.
        restarts: Runs from random starts, on cross entropy and on the margin by turns.
    """

    steps: int
    targets: int
    restarts: int


@dataclass(frozen=True)
class Fallen:
    """What an attack with rising radii reached, for each row.

    Attributes:
        epsilon: The smallest radius at which the row was turned, shape (N,): 0 where it is wrong anyway, infinite where
            it still stands.
        distance: ℓ2 length of the change that did it; likewise.
        inputs: The changed inputs, each (N, …); those of the other rows are unchanged.
    """

    epsilon: NDArray[np.float64]
    distance: NDArray[np.float64]
    inputs: list[Tensor]


def rising_pgd(
    model: Model,
    centres: Sequence[Tensor],
    labels: Tensor,
    epsilons: Sequence[float],
    *,
    moved: tuple[bool, ...],
    domains: Domains,
    effort: Effort,
    seed: int,
) -> Fallen:
    """ℓ2-PGD at each radius, on the rows that stood at all smaller ones: a ball contains the smaller ones.

    Args:
        model: What is attacked.
        centres: Its inputs, each (N, …).
        labels: Shape (N,).
        epsilons: Radii, rising.
        moved: Which inputs are changed.
        domains: Of each input.
        effort: At each radius.
        seed: Of the random starts.
    """
    clean = _logits(model, centres)
    fallen, distance = (np.where((clean.argmax(dim=1) != labels).numpy(), 0.0, np.inf) for _ in range(2))
    likeliest = clean.scatter(1, labels[:, None], -torch.inf).argsort(dim=1, descending=True)
    targets = min(effort.targets, clean.shape[1] - 1)
    changed = [centre.clone() for centre in centres]
    generator = np.random.default_rng(seed)
    for epsilon in epsilons:
        ball = Ball(epsilon, moved, domains)
        for run in range(targets + effort.restarts):
            objective: Objective = "target" if run < targets else "margin" if (run - targets) % 2 else "cross-entropy"
            standing = np.flatnonzero(np.isinf(fallen))
            for first in range(0, len(standing), BATCH):
                rows = torch.from_numpy(standing[first : first + BATCH])
                mine = [centre[rows] for centre in centres]
                found = joint_ascent(
                    model,
                    mine,
                    labels[rows],
                    ball,
                    steps=effort.steps,
                    step_size=STEP_RATIO * epsilon / effort.steps,
                    objective=objective,
                    start=None if run < targets else random_start(mine, ball, generator),
                    targets=likeliest[rows, run] if run < targets else None,
                )
                turned = surely_fooled(_logits(model, found), labels[rows])
                length = joint_norm([new.double() - old for new, old in zip(found, mine, strict=True)])
                fallen[rows[turned].numpy()] = epsilon
                distance[rows[turned].numpy()] = length[turned].numpy()
                for whole, part in zip(changed, found, strict=True):
                    whole[rows[turned]] = part[turned]
    return Fallen(fallen, distance, changed)


def right_under_fgm(
    model: Model,
    centres: Sequence[Tensor],
    labels: Tensor,
    epsilons: Sequence[float],
    *,
    moved: tuple[bool, ...],
    domains: Domains,
) -> NDArray[np.bool_]:
    """Which rows are right after one step along the gradient of the cross entropy, normalised over all that moves.

    Returns:
        Shape (radii, N).
    """
    right = []
    for epsilon in epsilons:
        ball = Ball(epsilon, moved, domains)
        found = joint_ascent(model, centres, labels, ball, steps=1, step_size=epsilon, objective="cross-entropy")
        right.append((_logits(model, found).argmax(dim=1) == labels).numpy())
    return np.stack(right)


def _logits(model: Model, inputs: Sequence[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(*parts) for parts in zip(*(torch.split(each, BATCH) for each in inputs), strict=True)])
