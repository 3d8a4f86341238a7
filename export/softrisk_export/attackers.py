"""Attacks on a classifier while it is calibrated. Imports torch, and is imported only when something is attacked."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_attacks.attack import Attack, run_attack
from softrisk_attacks.suite import calibration_attacks
from softrisk_export.source import Answers


@dataclass(frozen=True)
class AttackedRows:
    """What one attack made of k inputs.

    Attributes:
        label: Of the attack, for tables.
        family: Of the attack.
        inputs: Shape (k, C, H, W), in [0, 1].
    """

    label: str
    family: str
    inputs: NDArray[np.float32]


@dataclass(frozen=True)
class Attacker:
    """Attacks a classifier.

    Attributes:
        model: Inputs (B, C, H, W) in [0, 1] → logits.
        gradients: Whether it has them.
    """

    model: nn.Module
    gradients: bool

    @classmethod
    def by_queries(cls, logits: Answers) -> "Attacker":
        """An attacker of whom nothing is known but what it answers."""
        return cls(_Answering(logits), gradients=False)

    def attacks(self, epsilons: Iterable[float], classes: int) -> list[Attack]:
        """Those that can be run, at these ℓ∞ radii in units of [0, 1] pixels."""
        return calibration_attacks(epsilons, classes=classes, gradients=self.gradients)

    def run(
        self,
        attack: Attack,
        inputs: NDArray[np.float32],
        labels: NDArray[np.int64],
        advance: Callable[[int, int], None],
    ) -> AttackedRows:
        """Attack inputs.

        Args:
            attack: Which.
            inputs: Shape (k, C, H, W).
            labels: What the classifier should no longer say, shape (k,).
            advance: Called with the numbers of finished inputs and of all.
        """
        found = run_attack(self.model, inputs, labels, attack, seed=0, batch_size=128, on_progress=advance)
        return AttackedRows(attack.label, attack.family, found.inputs)


class _Answering(nn.Module):
    def __init__(self, logits: Answers) -> None:
        super().__init__()
        self._logits = logits

    def __deepcopy__(self, memo: object) -> "_Answering":
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.from_numpy(self._logits(np.ascontiguousarray(inputs.detach().numpy())))
