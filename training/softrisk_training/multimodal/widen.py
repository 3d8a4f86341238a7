"""The second step of CRMT: the factors a alone, for the largest mean radius."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from softrisk_training.multimodal.certificate import constants
from softrisk_training.multimodal.fusion import Fusion

STEPS: Final = 300
LEARNING_RATE: Final = 1e-2
REACH: Final = 1.5
"""By which a factor may change. Left free, the ascent gives up the modality with the steeper slopes: radii grow, but
the accuracy of new rows falls by more than a few hundred selection rows show. (The authors' learning rate of 3e-5
hardly moves a factor.)"""


@dataclass(frozen=True)
class ScoredRows:
    """What encoders and heads, which stay as they are, make of some rows.

    Attributes:
        scores: Shape (N, modalities, C).
        labels: Shape (N,).
    """

    scores: Tensor
    labels: Tensor

    def select(self, rows: Tensor) -> "ScoredRows":
        """Some of the rows."""
        return ScoredRows(self.scores[rows], self.labels[rows])


class MeanRadii(NamedTuple):
    """On selection rows, a wrong row counting as 0."""

    before: float
    after: float


def signed_radii(rows: ScoredRows, scale: Tensor, bias: Tensor, grams: Tensor) -> Tensor:
    """The radius min over k ≠ y of (h_y − h_k) / √(Σ_m L[m, y, k]²), negative where a row is wrong.

    Args:
        rows: N of them.
        scale: The factors a, shape (modalities, C).
        bias: Shape (C,).
        grams: As in `softrisk_training.multimodal.certificate.constants`.

    Returns:
        Shape (N,).
    """
    logits = (rows.scores * scale).sum(dim=1) + bias
    slopes = constants(grams, scale).square().sum(dim=0).clamp(min=1e-30).sqrt()[rows.labels]
    radii = (logits.gather(1, rows.labels[:, None]) - logits) / slopes
    return radii.scatter(1, rows.labels[:, None], torch.inf).amin(dim=1)


def widen(
    fusion: Fusion,
    training: ScoredRows,
    selection: ScoredRows,
    grams: Tensor,
) -> MeanRadii:
    """Train the factors a by gradient ascent on the mean radius of the training rows that are right.

    Each stays within a factor of `REACH` of where it was. Kept are the factors with the largest mean radius on the
    selection rows, a wrong row counting as 0, among those that cost no accuracy there. They may be those of the first
    step.

    Args:
        fusion: With factors; its other weights stay as they are.
        training: Rows to fit.
        selection: Rows to choose by.
        grams: As in `softrisk_training.multimodal.certificate.constants`.
    """
    assert fusion.signed_scale is not None
    training, selection = (ScoredRows(rows.scores.double(), rows.labels) for rows in (training, selection))
    bias, start = fusion.bias.detach().double(), fusion.scale.detach().double()
    factors = start.clone().requires_grad_()
    right = training.select(signed_radii(training, start, bias, grams) > 0)
    optimizer = torch.optim.Adam([factors], LEARNING_RATE)
    before = signed_radii(selection, start, bias, grams)
    best, kept = -1.0, start
    for step in range(STEPS + 1):
        radii = signed_radii(selection, factors.detach(), bias, grams)
        mean = float(radii.clamp(min=0).mean())
        if mean > best and (radii > 0).sum() >= (before > 0).sum():
            best, kept = mean, factors.detach().clone()
        if step < STEPS:
            optimizer.zero_grad()
            torch.autograd.backward(-signed_radii(right, factors, bias, grams).mean())
            optimizer.step()
            with torch.no_grad():
                factors.clamp_(start / REACH, start * REACH)
    with torch.no_grad():
        fusion.signed_scale.copy_(kept)
    return MeanRadii(float(before.clamp(min=0).mean()), best)
