"""FGSM and PGD in the ℓ∞ norm, run by the Adversarial Robustness Toolbox (ART) on a torch module.

Two things ART (1.20) leaves to us. Its own restarts replace an input whenever an attack changes the model's
*prediction*, so that an input which is wrong without an attack can be "attacked" back to its label; here each restart
is a run of ART with one random start, and of all runs the one with the largest margin of a wrong class over the label
is kept for each input, which is a success wherever any run had one. And it draws random starts from NumPy's global
state, which is set from the seed for the time of the attack and put back afterwards.

ART stops no run early: every step is taken on every input.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
from torch import Tensor

from softrisk_attacks.attack import Attack, Family, Found, require_positive
from softrisk_attacks.toolbox import estimator, generate, seeded
from softrisk_attacks.victim import Victim, margin

STEP_RATIO: Final = 2.5
"""A step of 2.5·ε/steps reaches the border of the ball from any start, and has room to turn back."""


@dataclass(frozen=True)
class FGSM(Attack):
    """The fast gradient sign method: one step of ε from the input (Goodfellow et al., ICLR 2015)."""

    name: ClassVar[str] = "FGSM"
    family: ClassVar[Family] = "single-step"

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Take the step."""
        runner = FastGradientMethod(estimator(victim, inputs), **_settings(self.epsilon, self.epsilon, inputs))
        with seeded(generator):
            return Found(generate(runner, victim, inputs, labels))


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent from random starts (Madry et al., ICLR 2018), with steps of 2.5·ε/steps.

    Attributes:
        steps: Gradient steps in each run.
        restarts: Runs, each from its own random point of the ball; the worst of them counts.
    """

    name: ClassVar[str] = "PGD"
    family: ClassVar[Family] = "iterative"

    steps: int = 20
    restarts: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(steps=self.steps, restarts=self.restarts)

    @property
    def step_size(self) -> float:
        """Length of one step."""
        return STEP_RATIO * self.epsilon / self.steps

    def _size(self) -> tuple[int | None, str]:
        return self.steps, f"×{self.restarts}"

    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Run from every start and keep the worst point of each input."""
        runner = ProjectedGradientDescentPyTorch(
            estimator(victim, inputs),
            max_iter=self.steps,
            num_random_init=1,
            verbose=False,
            **_settings(self.epsilon, self.step_size, inputs),
        )
        low, high = self.box(inputs)
        worst, largest = inputs, torch.full((len(inputs),), -torch.inf, device=inputs.device)
        with seeded(generator):
            for _ in range(self.restarts):
                candidate = generate(runner, victim, inputs, labels).clamp(low, high)
                reached = margin(victim.logits(candidate), labels)
                better = reached > largest
                worst = torch.where(better[:, None, None, None], candidate, worst)
                largest = torch.where(better, reached, largest)
        return Found(worst)


def fgsm(epsilon: float) -> FGSM:
    """The fast gradient sign method."""
    return FGSM(epsilon)


def pgd(epsilon: float, steps: int = 20, restarts: int = 5) -> PGD:
    """Projected gradient descent from random starts."""
    return PGD(epsilon, steps, restarts)


def _settings(epsilon: float, step_size: float, inputs: Tensor) -> dict[str, Any]:
    return {"norm": np.inf, "eps": epsilon, "eps_step": step_size, "batch_size": len(inputs)}
