"""Training under attack: what an adversary does to each batch, and the guard against its collapse.

Attacked inputs are made in eval mode and trained on in train mode: the attack is against the classifier that will be
used, and batch normalisation learns its statistics from the inputs that the weights are fitted to.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from softrisk_attacks.inner import pgd_inner
from softrisk_training.data import ImageData
from softrisk_training.errors import TrainingError
from softrisk_training.losses import Loss

AdversaryKind = Literal["none", "pgd", "fast", "trades"]

SETTINGS: Final[dict[AdversaryKind, tuple[str, ...]]] = {
    "none": (),
    "pgd": ("epsilon", "steps"),
    "fast": ("epsilon",),
    "trades": ("epsilon", "steps", "beta"),
}
"""The fields of `Adversary` that matter for each kind."""

STEP_RATIO: Final = 2.5
"""A step of 2.5·ε/steps reaches the border of the ball from any start, and has room to turn back."""

FAST_STEP: Final = 1.25
"""Length of the single step in units of ε (Wong et al., ICLR 2020)."""

PROBE_ROWS: Final = 500
PROBE_STEPS: Final = 10
PROBE_STREAM: Final = 1
"""Third part of the seed (seed, epoch, …) of the probe's random starts, which training itself does not use."""

COLLAPSE: Final = 0.5
"""Below this share of the best epoch's robust accuracy, training has collapsed. Usually it falls to nearly 0."""


@dataclass(frozen=True)
class Adversary:
    """Who attacks the training inputs, in the ℓ∞ norm.

    `none`: nobody. `pgd`: the loss is that of inputs attacked by PGD (Madry et al., ICLR 2018). `fast`: the same with a
    single step of 1.25·ε from a random start (Wong et al., ICLR 2020), at about twice the price of plain training.
    `trades`: the loss of the clean inputs, plus β times the divergence KL(p‖p′) of the attacked softmax p′ from the
    clean one p, which the attack raises, too (Zhang et al., ICML 2019).
    All are guarded against a collapse: see `collapsed`.

    Attributes:
        kind: One of the four.
        epsilon: Radius of the ball, in units of [0, 1] pixels; in (0, 1] unless there is no adversary.
        steps: Gradient steps of `pgd` and `trades`, of 2.5·ε/steps each; `fast` has one whatever stands here.
        beta: Weight β ≥ 0 of the divergence, for `trades`.
    """

    kind: AdversaryKind = "none"
    epsilon: float = 0.0
    steps: int = 7
    beta: float = 6.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(AdversaryKind):
            raise TrainingError(f"unknown adversary {self.kind!r}: choose one of {', '.join(get_args(AdversaryKind))}")
        if self.kind != "none" and not 0 < self.epsilon <= 1:
            raise TrainingError(
                f"the adversary {self.kind!r} needs an epsilon in (0, 1], in units of [0, 1] pixels, got"
                f" {self.epsilon:g}"
            )
        if self.steps < 1:
            raise TrainingError(f"the steps of an adversary must be at least 1, got {self.steps}")
        if not self.beta >= 0:
            raise TrainingError(f"beta of TRADES must not be negative, got {self.beta:g}")

    @property
    def settings(self) -> dict[str, float | str]:
        """What a checkpoint records: the kind, and what matters for it."""
        return {"adversary": self.kind} | {f"adversary_{name}": getattr(self, name) for name in SETTINGS[self.kind]}

    @property
    def attack(self) -> Callable[..., Tensor]:
        """The attack on a batch: (model, inputs, labels, generator=…) -> attacked inputs."""
        if self.kind == "fast":
            return partial(pgd_inner, epsilon=self.epsilon, step_size=FAST_STEP * self.epsilon, steps=1)
        return partial(
            pgd_inner,
            epsilon=self.epsilon,
            step_size=STEP_RATIO * self.epsilon / self.steps,
            steps=self.steps,
            objective="divergence" if self.kind == "trades" else "cross-entropy",
        )


NO_ADVERSARY: Final = Adversary()
"""Plain training."""


def make_adversary(kind: AdversaryKind, **settings: Any) -> Adversary:
    """An adversary from its kind and settings, as a command line gives them.

    Args:
        kind: One of `AdversaryKind`.
        **settings: Further fields of `Adversary`; those not given take their defaults.

    Raises:
        TrainingError: If there is no such kind, if it has no such setting, or if a value is out of range.
    """
    for setting in settings:
        if setting not in SETTINGS.get(kind, settings):
            known = f"it takes {' and '.join(SETTINGS[kind])}" if SETTINGS[kind] else "it takes none"
            raise TrainingError(f"the adversary {kind!r} has no setting {setting!r}: {known}")
    return Adversary(kind, **settings)


def batch_loss(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    labels: Tensor,
    adversary: Adversary,
    generator: np.random.Generator,
    *,
    bfloat16: bool,
) -> tuple[Tensor, Tensor]:
    """The loss of a batch under attack, and the logits that `loss` was taken of.

    Args:
        model: In train mode.
        loss: Of attacked logits for `pgd` and `fast`, of clean logits otherwise.
        inputs: Shape (B, C, H, W), in [0, 1].
        labels: Shape (B,).
        adversary: Who attacks.
        generator: Draws the random starts.
        bfloat16: Whether forward passes run in bfloat16 autocast; losses are always float32.

    Returns:
        The scalar to descend, and float32 logits (B, classes).
    """
    # Each use is a context of its own: autocast keeps converted weights, and those of the attack have no gradient.
    autocast = partial(torch.autocast, inputs.device.type, torch.bfloat16, enabled=bfloat16)
    if adversary.kind != "none":
        with autocast():
            attacked = adversary.attack(model, inputs, labels, generator=generator)
    if adversary.kind in ("pgd", "fast"):
        inputs = attacked
    with autocast():
        logits = model(inputs).float()
        attacked_logits = model(attacked).float() if adversary.kind == "trades" else None
    value = loss(logits, labels)
    if attacked_logits is not None:
        log_p, log_attacked = logits.log_softmax(dim=1), attacked_logits.log_softmax(dim=1)
        value = value + adversary.beta * F.kl_div(log_attacked, log_p, reduction="batchmean", log_target=True)
    return value, logits


def probe_robustness(
    model: nn.Module, data: ImageData, rows: NDArray[np.int64], adversary: Adversary, seed: int, epoch: int
) -> float:
    """Accuracy, in [0, 1], of up to 500 of the rows under a short PGD: a probe that tells a collapse, not a result."""
    device = next(model.parameters()).device
    some = rows[:: -(-len(rows) // PROBE_ROWS)]
    inputs, labels = torch.from_numpy(data.inputs(some)).to(device), torch.from_numpy(data.labels[some]).to(device)
    probe = Adversary("pgd", adversary.epsilon, steps=PROBE_STEPS)
    model.eval()
    attacked = probe.attack(model, inputs, labels, generator=np.random.default_rng([seed, epoch, PROBE_STREAM]))
    with torch.inference_mode():
        return float((model(attacked).argmax(dim=1) == labels).float().mean())


def best_epoch(history: list[dict[str, float]]) -> int:
    """The first epoch, counted from 0, with the highest robust accuracy."""
    robust = [entry["robust_accuracy"] for entry in history]
    return robust.index(max(robust))


def collapsed(history: list[dict[str, float]]) -> bool:
    """Whether training has overfitted catastrophically: robust to its own attack, and to nothing stronger.

    It happens within an epoch, does not mend, and shows in nothing but a stronger attack: often with a single step
    (Wong et al., ICLR 2020, section 5), and with a few large ones, too. So a PGD of small steps probes each epoch, and
    training ends when less than half of the best is left.

    Args:
        history: Epochs so far; without `robust_accuracy` nothing has been probed, and the answer is no.
    """
    if not history or "robust_accuracy" not in history[-1]:
        return False
    return history[-1]["robust_accuracy"] < COLLAPSE * history[best_epoch(history)]["robust_accuracy"]
