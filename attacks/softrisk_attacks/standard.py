"""FGSM and PGD in the ℓ∞ norm, run by the Adversarial Robustness Toolbox (ART) on a torch module.

Two things ART (1.20) leaves to us. Its own restarts replace an input whenever an attack changes the model's
*prediction*, so that an input which is wrong without an attack can be "attacked" back to its label; here each restart
is a run of ART with one random start, and of all runs the one with the largest margin of a wrong class over the label
is kept for each input, which is a success wherever any run had one. And it draws random starts from NumPy's global
state, which is set from the seed for the time of the attack and put back afterwards.

ART stops no run early: every step is taken on every input.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import nn

from softrisk_attacks.errors import AttackError

STEP_RATIO: Final = 2.5
"""A step of 2.5·ε/steps reaches the border of the ball from any start, and has room to turn back."""


@dataclass(frozen=True)
class Attack:
    """An attack with all its settings.

    Attributes:
        name: `FGSM` or `PGD`.
        epsilon: Radius of the ℓ∞ ball around the input, in units of [0, 1] pixels.
        steps: Gradient steps in each run.
        restarts: Runs, each from its own random point of the ball; the worst of them counts.
    """

    name: Literal["FGSM", "PGD"]
    epsilon: float
    steps: int = 1
    restarts: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1:
            raise AttackError(f"epsilon must be in (0, 1], in units of [0, 1] pixels, got {self.epsilon:g}")
        if self.steps < 1 or self.restarts < 1:
            raise AttackError(f"steps and restarts must be at least 1, got {self.steps} and {self.restarts}")

    @property
    def label(self) -> str:
        """For tables: `FGSM ε=0.1`, `PGD-20 ε=0.1 ×5`."""
        if self.name == "FGSM":
            return f"FGSM ε={self.epsilon:.4g}"
        return f"PGD-{self.steps} ε={self.epsilon:.4g} ×{self.restarts}"

    @property
    def step_size(self) -> float:
        """Length of one step: ε for FGSM, 2.5·ε/steps for PGD."""
        return self.epsilon if self.name == "FGSM" else STEP_RATIO * self.epsilon / self.steps


def fgsm(epsilon: float) -> Attack:
    """The fast gradient sign method: one step of ε from the input (Goodfellow et al., ICLR 2015)."""
    return Attack("FGSM", epsilon)


def pgd(epsilon: float, steps: int = 20, restarts: int = 5) -> Attack:
    """Projected gradient descent from random starts (Madry et al., ICLR 2018), with steps of 2.5·ε/steps."""
    return Attack("PGD", epsilon, steps, restarts)


def run_attack(
    model: nn.Module,
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    attack: Attack,
    *,
    seed: int,
    batch_size: int = 256,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float32]:
    """Attack every input by raising the cross entropy of its label.

    The gradients are those of the logits in float32 and eval mode, taken on a copy: the caller's model is not
    touched. The result depends on model, inputs, batch size and seed alone.

    Args:
        model: Maps (B, C, H, W) in [0, 1] to logits (B, classes).
        inputs: Shape (N, C, H, W), in [0, 1].
        labels: True classes, shape (N,).
        attack: What to run.
        seed: Decides the random starts.
        batch_size: Inputs attacked at a time.
        on_progress: Called with the numbers of finished inputs and of all inputs, after every batch.

    Returns:
        Attacked inputs, shape (N, C, H, W), in [0, 1] and within ε of the inputs.

    Raises:
        AttackError: If inputs and labels do not match, or inputs are not in [0, 1].
    """
    if inputs.ndim != 4 or labels.shape != inputs.shape[:1] or batch_size < 1:
        raise AttackError(
            f"an attack needs inputs (N, C, H, W) with labels (N,) and a batch size of 1 or more,"
            f" got {inputs.shape}, {labels.shape} and {batch_size}"
        )
    if len(inputs) == 0:
        return inputs.copy()
    if not (inputs.min() >= 0 and inputs.max() <= 1):
        raise AttackError("an attack needs inputs in [0, 1]; normalisation belongs into the model")

    victim = copy.deepcopy(model).float().eval().requires_grad_(False)
    attacked = np.empty_like(inputs, dtype=np.float32)
    with _numpy_seed(seed):
        generate = _art_attack(victim, inputs, attack, batch_size)
        for start in range(0, len(inputs), batch_size):
            rows = slice(start, start + batch_size)
            attacked[rows] = _worst_of_restarts(victim, generate, inputs[rows], labels[rows], attack)
            on_progress(min(start + batch_size, len(inputs)), len(inputs))
    return attacked


def _worst_of_restarts(
    victim: nn.Module,
    generate: Callable[..., NDArray[np.float32]],
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    attack: Attack,
) -> NDArray[np.float32]:
    worst = inputs
    worst_margin = np.full(len(inputs), -np.inf)
    # ART projects before it adds the input, so that rounding can leave the ball and the range by one float.
    low = np.maximum(inputs - np.float32(attack.epsilon), 0)
    high = np.minimum(inputs + np.float32(attack.epsilon), 1)
    for _ in range(attack.restarts):
        candidate = np.clip(generate(x=inputs, y=labels), low, high)
        margin = _margin(victim, candidate, labels)
        better = margin > worst_margin
        worst = np.where(better[:, None, None, None], candidate, worst)
        worst_margin = np.where(better, margin, worst_margin)
    return worst


def _margin(victim: nn.Module, inputs: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Largest logit of a wrong class minus the logit of the label; positive where the model errs."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = victim(torch.from_numpy(inputs).to(_device(victim))).cpu().numpy()
    rows = np.arange(len(labels))
    own = logits[rows, labels]
    logits[rows, labels] = -np.inf
    margin: NDArray[np.float32] = logits.max(axis=1) - own
    return margin


def _art_attack(
    victim: nn.Module, inputs: NDArray[np.float32], attack: Attack, batch_size: int
) -> Callable[..., NDArray[np.float32]]:
    with torch.inference_mode():
        classes: int = victim(torch.from_numpy(inputs[:1]).to(_device(victim))).shape[1]
    estimator = PyTorchClassifier(
        victim,
        # The sum: the mean would scale gradients with the batch, towards the smallest floats.
        loss=nn.CrossEntropyLoss(reduction="sum"),
        input_shape=inputs.shape[1:],
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type=_device(victim).type if _device(victim).type == "cpu" else "gpu",
    )
    common: dict[str, Any] = {
        "norm": np.inf,
        "eps": attack.epsilon,
        "eps_step": attack.step_size,
        "batch_size": batch_size,
    }
    if attack.name == "FGSM":
        runner = FastGradientMethod(estimator, **common)
    else:
        runner = ProjectedGradientDescentPyTorch(
            estimator, max_iter=attack.steps, num_random_init=1, verbose=False, **common
        )
    generate: Callable[..., NDArray[np.float32]] = runner.generate
    return generate


def _device(model: nn.Module) -> torch.device:
    tensor = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    before = np.random.get_state()  # noqa: NPY002 - ART draws from the global state
    np.random.seed(seed)  # noqa: NPY002 - the same
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002 - the same
