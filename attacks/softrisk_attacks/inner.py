"""The short PGD inside adversarial training: torch only, one run, no copies.

It is no measure of robustness; for that there are the attacks beside it. It always raises the cross entropy (or the
divergence of TRADES), whatever the model is trained with, and never a regulariser: an attacker wants another label, and
a penalty that takes part in the search lets training teach the search to look elsewhere, which is how gradients get
masked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softrisk_attacks.errors import AttackError

Objective = Literal["cross-entropy", "divergence"]


def pgd_inner(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    generator: np.random.Generator,
    objective: Objective = "cross-entropy",
) -> Tensor:
    """Climb by the sign of the gradient from a random point of the ℓ∞ ball (Madry et al., ICLR 2018).

    The model is in eval mode for the time of the attack, so that batch normalisation neither learns from half-finished
    attacks nor lets the inputs of a batch influence each other; afterwards it is in the mode in which it was. The
    gradients of its parameters are left alone. Autocast, if any, is the caller's.

    Args:
        model: Maps (B, C, H, W) in [0, 1] to logits (B, classes).
        inputs: Shape (B, C, H, W), in [0, 1].
        labels: True classes, shape (B,); `divergence` does not look at them.
        epsilon: Radius of the ball, in units of [0, 1] pixels.
        step_size: Length of a step, in the same units; it may be larger than `epsilon`.
        steps: Gradient steps, ≥ 1.
        generator: Draws the start, uniform in the ball.
        objective: `cross-entropy` of the label, or the `divergence` KL(p‖p′) of the attacked softmax p′ from the clean
            softmax p (Zhang et al., ICML 2019). The latter has no gradient at the input itself and needs the random
            start.

    Returns:
        Attacked inputs, shape (B, C, H, W), in [0, 1] and within ε of the inputs, without a graph.

    Raises:
        AttackError: If `epsilon`, `step_size` or `steps` are not greater than 0.
    """
    if not (epsilon > 0 and step_size > 0 and steps > 0):
        raise AttackError(
            f"epsilon, step size and steps must be greater than 0, got {epsilon:g}, {step_size:g} and {steps}"
        )
    inputs = inputs.detach()
    low, high = (inputs - epsilon).clamp_min(0), (inputs + epsilon).clamp_max(1)
    drawn = torch.from_numpy(generator.random(inputs.shape, dtype=np.float32)).to(inputs.device)
    attacked = (inputs + epsilon * (2 * drawn - 1)).clamp(low, high)
    with _eval_mode(model):
        if objective == "divergence":
            with torch.no_grad():
                clean = model(inputs).float().log_softmax(dim=1)
        for _ in range(steps):
            attacked.requires_grad_()
            logits = model(attacked).float()
            # Sums: means would scale gradients with the batch, towards the smallest floats.
            if objective == "divergence":
                value = F.kl_div(logits.log_softmax(dim=1), clean, reduction="sum", log_target=True)
            else:
                value = F.cross_entropy(logits, labels, reduction="sum")
            (gradient,) = torch.autograd.grad(value, attacked)
            attacked = (attacked.detach() + step_size * gradient.sign()).clamp(low, high)
    return attacked


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)
