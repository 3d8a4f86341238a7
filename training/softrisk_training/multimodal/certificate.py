"""Lipschitz constants of logit differences: those that are proved, and those that were only seen.

Let G^(m) be the matrix of scalar products of the gradients of all scores s_k^(m). The gradient of
a_y s_y − a_k s_k has the squared norm a_y² G_yy + a_k² G_kk − 2 a_y a_k G_yk. With the rows of the head in place of
gradients, and Lip(φ^(m))² as a factor, the same formula is an upper bound for every input. So what is learnt, and what
was seen, comes from matrices G: one for every input, or one for each row that was looked at, of which the largest value
counts. What is proved comes from the rows themselves: of two that are nearly equal, the formula keeps no digit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_core.radius import radius
from softrisk_training.errors import TrainingError
from softrisk_training.multimodal.front_end import LogMel, largest_norm
from softrisk_training.multimodal.lipschitz import MARGIN, Bound, bound_network, dot_error
from softrisk_training.multimodal.model import MultimodalClassifier

BEYOND: Final = 1 + 1e-4
"""Inputs are answered that leave their domain by rounding, 1e-5 of its width: norms may be so much larger."""


@dataclass(frozen=True)
class Lipschitz:
    """Constants in the ℓ2 norm of each modality's space; `softrisk_core.radius` makes radii of them.

    Attributes:
        certified: Upper bounds, shape (modalities, C, C): entry [m, y, k] of h_y − h_k as a function of modality m
            alone. None if nothing can be proved.
        estimated: The largest gradients that were seen, same shape: lower bounds, which prove nothing.
        rounding: How far a logit computed in float32 can lie from the exact one, ≥ 0, for planes with no larger norm
            than pixels in [0, 1] or a waveform in [−1, 1] can have. Both the answer and the changed one are computed
            so: a certificate takes four times this off every difference of logits.
    """

    certified: NDArray[np.float64] | None
    estimated: NDArray[np.float64] | None
    rounding: float = 0.0


def certified_radius(
    logits: NDArray[np.float32], lipschitz: Lipschitz, modality: int | None = None
) -> NDArray[np.float64]:
    """The radius within which no change of the planes changes the label, as float32 computes it.

    Args:
        logits: Shape (B, C).
        lipschitz: With certified constants.
        modality: The only one that changes; None if all may.

    Returns:
        Shape (B,), ≥ 0, in the ℓ2 norm of what changes.

    Raises:
        TrainingError: If nothing is certified.
    """
    if lipschitz.certified is None:
        raise TrainingError("this classifier has no certified Lipschitz constants")
    constants = lipschitz.certified if modality is None else lipschitz.certified[modality]
    return radius(logits, constants, lipschitz.rounding)


def certify(model: MultimodalClassifier, planes: Sequence[Tensor]) -> Lipschitz:
    """All constants of a trained classifier.

    Args:
        model: In eval mode, without constraints.
        planes: Of some training rows, on which gradients are measured.

    Raises:
        TrainingError: If an encoder has a layer for which no bound is known.
    """
    estimated = constants(gradient_grams(model, planes), torch.ones(len(planes), 1)).numpy()
    if not model.fusion.separable:
        return Lipschitz(None, estimated)
    bounds = encoder_bounds(model, planes)
    certified = _proved_constants(model, [bound.slope for bound in bounds])
    return Lipschitz(certified, estimated, _logit_rounding(model, bounds))


def encoder_bounds(model: MultimodalClassifier, planes: Sequence[Tensor]) -> list[Bound]:
    """Bounds of every encoder; of the planes only the shapes matter."""
    bounds = []
    for front_end, encoder, plane in zip(model.front_ends, model.encoders, planes, strict=True):
        channels, height, width = plane.shape[1:]
        norm = largest_norm(width) if isinstance(front_end, LogMel) else math.sqrt(plane[0].numel())
        bounds.append(bound_network(cast(nn.Sequential, encoder), (channels, height, width), norm * BEYOND))
    return bounds


def head_grams(model: MultimodalClassifier, slopes: Sequence[float]) -> Tensor:
    """The matrix G that holds for every input, shape (1, modalities, C, C), float64."""
    weights = [weight.detach().double().cpu() for weight in model.fusion.weights]
    return torch.stack([slope**2 * weight @ weight.T for slope, weight in zip(slopes, weights, strict=True)])[None]


def gradient_grams(model: MultimodalClassifier, planes: Sequence[Tensor], *, of_scores: bool = False) -> Tensor:
    """The matrices G of some rows, shape (rows, modalities, C, C), float64.

    Args:
        model: In eval mode.
        planes: Of each modality, (rows, …).
        of_scores: Whether the gradients are those of each modality's scores, for scores that depend on one modality
            alone, or those of the logits.
    """
    leaves = [plane.detach().clone().requires_grad_() for plane in planes]
    scores = model.scores(*leaves)
    # Each score has the gradient of its own modality in the sum, too.
    outputs = scores.sum(dim=1) if of_scores else model.fusion.combine(scores)
    gradients = [
        torch.autograd.grad(outputs[:, label].sum(), leaves, retain_graph=True) for label in range(outputs.shape[1])
    ]
    jacobians = (
        torch.stack([each.flatten(1).double() for each in of_classes], dim=1)
        for of_classes in zip(*gradients, strict=True)
    )
    return torch.stack([(jacobian @ jacobian.transpose(1, 2)).cpu() for jacobian in jacobians], dim=1)


def constants(grams: Tensor, scale: Tensor) -> Tensor:
    """Slopes of a_y s_y − a_k s_k: the largest over the matrices G.

    Args:
        grams: Shape (rows, modalities, C, C).
        scale: The factors a, shape (modalities, C), or one that broadcasts.

    Returns:
        Shape (modalities, C, C), ≥ 0, zero on the diagonals; differentiable with respect to `scale` elsewhere.
    """
    scaled = grams * scale[:, :, None] * scale[:, None, :]
    diagonal = torch.diagonal(scaled, dim1=-2, dim2=-1)
    squares = (diagonal[..., :, None] + diagonal[..., None, :] - 2 * scaled).amax(dim=0)
    # The root has no finite slope at 0, where the diagonals are.
    return squares.clamp(min=1e-30).sqrt() * (1 - torch.eye(grams.shape[-1], dtype=grams.dtype))


def _proved_constants(model: MultimodalClassifier, slopes: Sequence[float]) -> NDArray[np.float64]:
    """‖a_y w_y − a_k w_k‖ · Lip(φ), shape (modalities, C, C), rounded up."""
    tables = []
    for slope, weight, factors in zip(slopes, model.fusion.weights, model.fusion.scale, strict=True):
        # Exact products of two float32.
        rows = (factors.detach().double()[:, None] * weight.detach().double()).cpu().numpy()
        tables.append(slope * np.array([np.linalg.norm(rows - row, axis=1) for row in rows]))
    return np.array(tables) * MARGIN


def _logit_rounding(model: MultimodalClassifier, bounds: Sequence[Bound]) -> float:
    """How far a logit in float32 can lie from the exact one: the largest over the classes."""
    scale = model.fusion.scale.detach().double().cpu().numpy()
    bias = model.fusion.bias.detach().double().cpu().numpy()
    errors = dot_error(len(bounds) + 1) * np.abs(bias)
    for bound, weight, factors in zip(bounds, model.fusion.weights, scale, strict=True):
        rows = np.linalg.norm(weight.detach().double().cpu().numpy(), axis=1)
        of_sums = dot_error(bound.shape[0] + len(bounds) + 2) * (bound.norm + bound.rounding)
        errors += factors * rows * (bound.rounding + of_sums)
    return float(errors.max()) * MARGIN
