"""All attacks at one radius, and what they leave together."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from softrisk_attacks.apgd import APGD, TargetedAPGD
from softrisk_attacks.attack import Attack, Outcome
from softrisk_attacks.bisected import BisectedAPGD
from softrisk_attacks.black_box import RandomNoise, Square
from softrisk_attacks.decision import HopSkipJump
from softrisk_attacks.errors import AttackError
from softrisk_attacks.minimum_norm import CarliniWagner, DeepFool
from softrisk_attacks.standard import fgsm, pgd
from softrisk_attacks.transfer import Transfer


@dataclass(frozen=True)
class Effort:
    """How much each attack of a suite may spend. The defaults are for figures that others should believe.

    Attributes:
        steps: Gradient steps of PGD and of every APGD.
        restarts: Of PGD and of APGD by the margin; APGD by cross entropy has one.
        targets: Wrong classes of targeted and of bisected APGD, at most; as many as there are if fewer.
        rounds: Radii that bisected APGD tries after the first, with a third of the steps for each run.
        queries: Of Square and of HopSkipJump.
        draws: Of noise.
        subset: HopSkipJump, C&W and DeepFool attack only the first so many inputs; None for all.
    """

    steps: int = 100
    restarts: int = 5
    targets: int = 9
    rounds: int = 8
    queries: int = 5000
    draws: int = 1000
    subset: int | None = 100


STRONG: Final = Effort()


def full_suite(epsilon: float, *, classes: int, twin: nn.Module | None = None, effort: Effort = STRONG) -> list[Attack]:
    """Every attack of this room, the cheap ones first.

    Args:
        epsilon: ℓ∞ radius, in units of [0, 1] pixels.
        classes: Of the model; targeted attacks try no more than there are.
        twin: Another model of the same classes to transfer from; None for no transfer.
        effort: What each attack may spend.

    Raises:
        AttackError: If a setting is out of range.
    """
    if classes < 2:
        raise AttackError(f"a suite needs 2 or more classes, got {classes}")
    targets = min(effort.targets, classes - 1)
    steps, restarts, subset = effort.steps, effort.restarts, effort.subset
    transfer = [] if twin is None else [Transfer(epsilon, twin, steps)]
    return [
        RandomNoise(epsilon, effort.draws),
        fgsm(epsilon),
        pgd(epsilon, steps, restarts),
        APGD(epsilon, "ce", steps),
        APGD(epsilon, "scaled-ce", steps),
        APGD(epsilon, "margin", steps, restarts),
        TargetedAPGD(epsilon, steps, targets),
        BisectedAPGD(epsilon, max(1, steps // 3), effort.rounds, targets),
        *transfer,
        Square(epsilon, effort.queries),
        DeepFool(epsilon, subset=subset),
        CarliniWagner(epsilon, subset=subset),
        HopSkipJump(epsilon, effort.queries, subset=subset),
    ]


def worst_case(outcomes: Iterable[Outcome]) -> NDArray[np.bool_]:
    """Where at least one of some attacks on the same inputs fooled the model, shape (N,).

    Raises:
        AttackError: If there is no outcome, or they are not of equally many inputs.
    """
    masks = [outcome.fooled for outcome in outcomes]
    if len({mask.shape for mask in masks}) != 1:
        raise AttackError(
            f"a worst case needs outcomes of the same inputs, got {[len(mask) for mask in masks] or 'none'}"
        )
    return reduce(np.logical_or, masks)


def calibration_attacks(epsilons: Iterable[float], *, classes: int, gradients: bool = True) -> list[Attack]:
    """Attacks that a score is fitted and chosen with: cheap, of five families, and run to their end.

    What stops at the first success leaves inputs that are hardly wrong, and a score that was fitted to nothing else
    knows nothing of the others.

    Args:
        epsilons: ℓ∞ radii, in units of [0, 1] pixels.
        classes: Of the model.
        gradients: Whether the model has them; else only what asks for logits.

    Raises:
        AttackError: If a radius is out of range.
    """
    radii = sorted(set(epsilons))
    if not radii:
        raise AttackError("give at least one epsilon")
    score_based: list[Attack] = [Square(epsilon, 200) for epsilon in radii[-2:]]
    if not gradients:
        return score_based
    return [
        *(fgsm(epsilon) for epsilon in radii),
        *(pgd(epsilon, 20, 1) for epsilon in radii),
        *(APGD(epsilon, "margin", 20, until_fooled=False) for epsilon in radii),
        *(TargetedAPGD(epsilon, 20, min(2, classes - 1), until_fooled=False) for epsilon in radii),
        BisectedAPGD(radii[-1], 10, 3, 1),
        *score_based,
    ]
