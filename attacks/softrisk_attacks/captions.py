"""Attacks on models that write a caption, by Auto-PGD under teacher forcing.

A greedy decoder writes the reference exactly if, at every position, the most likely token after the reference so far is
that of the reference. So one pass with the reference as input tells whether the model would write it, and by how many
logits it would not: nothing has to be generated while an attack runs, and success is exact.

The aim is the cross entropy of a fixed caption, or a difference of logits. No regulariser takes part, and no caption is
read anew on the way.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_attacks.apgd import random_points
from softrisk_attacks.ascent import ascend
from softrisk_attacks.attack import require_positive
from softrisk_attacks.errors import AttackError
from softrisk_attacks.victim import margin

CaptionObjective = Literal["ce", "margin"]


@dataclass(frozen=True)
class CaptionAttack:
    """Away from a reference, or towards a target, in the ℓ∞ ball around an image.

    Attributes:
        epsilon: Radius of the ball, in units of [0, 1] pixels.
        objective: `ce`, the cross entropy of the fixed caption, a sum over its tokens; `margin`, by how much its most
            (away) or least (towards) doubtful token is wrong.
        targeted: Whether the model is to write the caption, rather than anything else.
        steps: Gradient steps of each run.
        restarts: Runs, each from its own random point of the ball, on the images that still stand.
        until_fooled: Leave an image alone once the attack has succeeded. Otherwise all steps are taken.
    """

    epsilon: float
    objective: CaptionObjective = "ce"
    targeted: bool = False
    steps: int = 100
    restarts: int = 2
    until_fooled: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1:
            raise AttackError(f"epsilon must be in (0, 1], in units of [0, 1] pixels, got {self.epsilon:g}")
        require_positive(steps=self.steps, restarts=self.restarts)


@dataclass(frozen=True)
class CaptionOutcome:
    """What an attack made of N images.

    Attributes:
        images: Shape (N, C, H, W), in [0, 1] and within ε of the originals.
        succeeded: A greedy decoder writes another caption than the reference, or writes the target, shape (N,).
        margin: By how many logits it does, shape (N,); negative where it does not.
    """

    images: NDArray[np.float32]
    succeeded: NDArray[np.bool_]
    margin: NDArray[np.float32]


def attack_captions(
    model: nn.Module,
    images: NDArray[np.float32],
    captions: NDArray[np.int64],
    attack: CaptionAttack,
    *,
    seed: int,
    batch_size: int = 64,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CaptionOutcome:
    """Attack images by the caption that a model writes for them.

    The model is attacked in float32 and eval mode, on a copy. An image for which the attack has nothing to do, as the
    model is wrong about it, or writes the target already, comes back as it is and counts as a success.

    Args:
        model: Maps images (B, C, H, W) in [0, 1] and captions (B, T) to logits (B, T, words): at each position those of
            the token that follows the caption up to there. It never sees a token at or after the position.
        images: Shape (N, C, H, W), in [0, 1].
        captions: References, or targets, shape (N, T): tokens with the end that a decoder would write; negative where
            padding follows.
        attack: What to run.
        seed: Decides the starts.
        batch_size: Images attacked at a time.
        on_progress: Called with the numbers of finished images and of all, after every batch.

    Raises:
        AttackError: If images and captions do not match, images are not in [0, 1], or a caption is empty.
    """
    if images.ndim != 4 or captions.ndim != 2 or len(captions) != len(images) or len(images) == 0:
        raise AttackError(
            f"an attack needs images (N, C, H, W) with captions (N, T), got {images.shape} and {captions.shape}"
        )
    if not (images.min() >= 0 and images.max() <= 1):
        raise AttackError("an attack needs images in [0, 1]; normalisation belongs into the model")
    if not (captions[:, 0] >= 0).all():
        raise AttackError("an attack needs captions of one token or more")
    victim = copy.deepcopy(model).float().eval().requires_grad_(False)
    device = next(victim.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        originals = torch.from_numpy(images[rows].astype(np.float32)).to(device)
        aim = CaptionAim(torch.from_numpy(captions[rows]).to(device), attack.objective, attack.targeted)
        parts.append(_attack_batch(victim, originals, aim, attack, generator))
        on_progress(min(start + batch_size, len(images)), len(images))
    points, margins = (torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True))
    return CaptionOutcome(points, margins > 0, margins)


@dataclass(frozen=True)
class CaptionAim:
    """What is raised for B images with a caption each.

    Attributes:
        captions: Shape (B, T); negative where padding follows.
        objective: As for `CaptionAttack`.
        targeted: As for `CaptionAttack`.
    """

    captions: Tensor
    objective: CaptionObjective
    targeted: bool

    def logits(self, model: nn.Module, points: Tensor) -> Tensor:
        """Under teacher forcing, shape (B, T, words)."""
        return cast(Tensor, model(points, self.captions))

    def __call__(self, logits: Tensor) -> Tensor:
        """Shape (B,)."""
        if self.objective == "margin":
            return self.margin(logits)
        entropies = nn.functional.cross_entropy(
            logits.flatten(end_dim=1), self._tokens.flatten(), reduction="none"
        ).view_as(self.captions)
        total = entropies.masked_fill(self.captions < 0, 0).sum(dim=1)
        return -total if self.targeted else total

    def margin(self, logits: Tensor) -> Tensor:
        """Of the most doubtful token: positive where the reference is not written, or where the target is."""
        wrong = margin(logits.flatten(end_dim=1), self._tokens.flatten()).view_as(self.captions)
        most = wrong.masked_fill(self.captions < 0, -torch.inf).amax(dim=1)
        return -most if self.targeted else most

    def select(self, rows: Tensor) -> "CaptionAim":
        """The same for some of the images, by mask or by index."""
        return CaptionAim(self.captions[rows], self.objective, self.targeted)

    @property
    def _tokens(self) -> Tensor:
        return self.captions.clamp(min=0)


def _attack_batch(
    victim: nn.Module, images: Tensor, aim: CaptionAim, attack: CaptionAttack, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    points = images.clone()
    with torch.no_grad():
        margins = aim.margin(aim.logits(victim, images))
    undone = margins <= 0
    for _ in range(attack.restarts):
        rows = torch.nonzero(margins <= 0 if attack.until_fooled else undone)[:, 0]
        if len(rows) == 0:
            break
        low, high = (images[rows] - attack.epsilon).clamp(min=0), (images[rows] + attack.epsilon).clamp(max=1)
        start = random_points(low, high, generator)
        radius = torch.full((len(rows), 1, 1, 1), attack.epsilon, device=images.device)
        chosen = aim.select(rows)
        ascent = ascend(victim, (low, high), radius, start, chosen, attack.steps, until_fooled=attack.until_fooled)
        reached = chosen.margin(ascent.logits)
        further = reached > margins[rows]
        points[rows[further]] = ascent.worst[further]
        margins[rows[further]] = reached[further]
    return points, margins
