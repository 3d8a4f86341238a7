"""C&W and DeepFool, run by ART: the smallest change in ℓ2 that fools the model, brought into the ℓ∞ ball.

Both minimise another norm than the one that bounds the attacker here. A minimum in ℓ2 may move a few pixels by more
than ε; these are cut back, and the result counts only if it still fools the model. They are here because they search
differently, not because they are strong in ℓ∞; `BisectedAPGD` finds minima in ℓ∞.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from art.attacks.evasion import CarliniL2Method
from art.attacks.evasion import DeepFool as ArtDeepFool
from torch import Tensor

from softrisk_attacks.attack import Attack, Family, Found, require_positive
from softrisk_attacks.errors import AttackError
from softrisk_attacks.toolbox import estimator, generate, seeded
from softrisk_attacks.victim import Victim
from softrisk_attacks.worst import Worst

CONFIDENCE: Final = 1e-3
"""Logits by which C&W wants to be past the border: at 0 it takes ties for successes."""


@dataclass(frozen=True)
class CarliniWagner(Attack):
    """Minimum in ℓ2 of the change plus the weighted margin (Carlini and Wagner, IEEE S&P 2017).

    ART optimises by gradient descent with a line search, where the paper has Adam.

    Attributes:
        steps: Gradient steps for each weight.
        weights: Steps of the binary search for the weight.
        confidence: Logits by which it wants to be past the border (κ of the paper).
    """

    name: ClassVar[str] = "C&W"
    family: ClassVar[Family] = "minimum-norm"

    steps: int = 20
    weights: int = 9
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(steps=self.steps, weights=self.weights)
        if self.confidence < 0:
            raise AttackError(f"confidence must not be negative, got {self.confidence:g}")

    def _size(self) -> tuple[int | None, str]:
        far = "" if self.confidence == CONFIDENCE else f" κ={self.confidence:g}"
        return self.steps, f"×{self.weights} weights{far}"

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Find a minimum for every input that is right."""
        runner = CarliniL2Method(
            estimator(victim, inputs),
            confidence=self.confidence,
            max_iter=self.steps,
            binary_search_steps=self.weights,
            batch_size=len(inputs),
            verbose=False,
        )
        return _cut_back(self, runner, victim, inputs, labels, generator)


@dataclass(frozen=True)
class DeepFool(Attack):
    """Steps to the nearest border of the linearised model (Moosavi-Dezfooli et al., CVPR 2016).

    Attributes:
        steps: At most so many, each with the gradients of all classes.
        overshoot: The change is lengthened by this share, to be past the border.
    """

    name: ClassVar[str] = "DeepFool"
    family: ClassVar[Family] = "minimum-norm"

    steps: int = 50
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(steps=self.steps)
        if self.overshoot < 0:
            raise AttackError(f"overshoot must not be negative, got {self.overshoot:g}")

    def _size(self) -> tuple[int | None, str]:
        return self.steps, ""

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Step over a border with every input that is right."""
        runner = ArtDeepFool(
            estimator(victim, inputs),
            max_iter=self.steps,
            epsilon=self.overshoot,
            nb_grads=victim.classes,
            batch_size=len(inputs),
            verbose=False,
        )
        return _cut_back(self, runner, victim, inputs, labels, generator)


def _cut_back(
    attack: Attack, runner: Any, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator
) -> Found:
    worst = Worst(victim, inputs, labels)
    rows = worst.standing
    if len(rows) > 0:
        with seeded(generator):
            points = generate(runner, victim, inputs[rows], labels[rows]).clamp(*attack.box(inputs[rows]))
        worst.offer(rows, points, victim.logits(points))
    return Found(worst.points)
