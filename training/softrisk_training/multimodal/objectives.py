"""What the first step of training descends: the loss of one batch, plain, under attack, or of mixed pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from softrisk_attacks.joint import Ball, joint_ascent
from softrisk_training.multimodal.model import MultimodalClassifier

Method = Literal["joint", "adversarial", "mixup", "crmt", "crmt-at", "crmt-mix"]

FLOOR: Final = 1e-5
"""Inside the logarithm of the margins: a worst margin of 11.5 is enough."""

INNER_STEPS: Final = 5
"""Of the attack inside training, of ε/5 each (the authors' code)."""


@dataclass(frozen=True)
class Recipe:
    """What a method is made of.

    Attributes:
        attacked: Whether inputs are replaced by attacked ones.
        mixed: Whether pairs of rows are mixed.
        certifies: Whether the margins of each modality are part of the loss, and a second step trains the factors a.
    """

    attacked: bool
    mixed: bool
    certifies: bool


METHODS: Final[dict[Method, Recipe]] = {
    "joint": Recipe(attacked=False, mixed=False, certifies=False),
    "adversarial": Recipe(attacked=True, mixed=False, certifies=False),
    "mixup": Recipe(attacked=False, mixed=True, certifies=False),
    "crmt": Recipe(attacked=False, mixed=False, certifies=True),
    "crmt-at": Recipe(attacked=True, mixed=False, certifies=True),
    "crmt-mix": Recipe(attacked=False, mixed=True, certifies=True),
}
"""Every method, by its name."""


def modality_margins(scores: Tensor, labels: Tensor) -> Tensor:
    """A smooth worst margin of each row, log(10⁻⁵ + Σ_m Σ_{k≠y} exp(s_k^(m) − s_y^(m))), ruled by the weaker modality.

    The first step of CRMT (arXiv 2402.06244). Scores are those before the factors a and the bias. Without the constant,
    which is that of the authors' code, free encoders would make it as negative as they like by growing.

    Args:
        scores: Shape (B, modalities, C).
        labels: Shape (B,).

    Returns:
        Shape (B,).
    """
    index = labels[:, None, None].expand(-1, scores.shape[1], 1)
    differences = (scores - scores.gather(2, index)).scatter(2, index, -torch.inf)
    sums = differences.flatten(1).logsumexp(dim=1)
    return sums.logaddexp(sums.new_tensor(math.log(FLOOR)))


def batch_loss(
    model: MultimodalClassifier,
    planes: Sequence[Tensor],
    labels: Tensor,
    recipe: Recipe,
    *,
    rho: float,
    epsilon: float,
    generator: np.random.Generator,
) -> Tensor:
    """The mean loss of a batch.

    Args:
        model: What is trained.
        planes: Of each modality, (B, channels, height, width).
        labels: Shape (B,).
        recipe: What the method is made of.
        rho: Weight ρ of the modalities' margins.
        epsilon: ℓ2 radius of the attack, over all planes together.
        generator: Draws what is mixed, and how much of it.
    """
    other_labels, share = labels, 1.0
    if recipe.mixed:
        share = float(generator.beta(1, 1))
        order = torch.from_numpy(generator.permutation(len(labels))).to(labels.device)
        planes = [share * plane + (1 - share) * plane[order] for plane in planes]
        other_labels = labels[order]
    if recipe.attacked:
        ball = Ball(epsilon, (True,) * len(planes), (None,) * len(planes))
        planes = joint_ascent(
            model.classify,
            planes,
            labels,
            ball,
            steps=INNER_STEPS,
            step_size=epsilon / INNER_STEPS,
            objective="cross-entropy",
        )
    scores = model.scores(*planes)
    logits = model.fusion.combine(scores)
    loss = torch.zeros((), device=logits.device)
    for wanted, weight in ((labels, share), (other_labels, 1 - share)):
        if weight:
            each = F.cross_entropy(logits, wanted, reduction="none")
            if recipe.certifies:
                each = each + rho * modality_margins(scores, wanted)
            loss = loss + weight * each.mean()
    return loss


def drop_modalities(planes: Sequence[Tensor], probability: float, generator: np.random.Generator) -> list[Tensor]:
    """Rows of which some lack one modality, any of them alike: its plane is zero, as that of a zero input is.

    Args:
        planes: Of each modality, (B, channels, height, width).
        probability: That a row lacks one.
        generator: Draws which.
    """
    if not probability:
        return list(planes)
    count = len(planes[0])
    lacking = np.where(generator.random(count) < probability, generator.integers(len(planes), size=count), -1)
    return [
        plane * torch.from_numpy(lacking != modality).to(plane)[:, None, None, None]
        for modality, plane in enumerate(planes)
    ]
