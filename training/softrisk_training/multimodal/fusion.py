"""From the features of all modalities to logits, by way of a score for each modality and class."""

from collections.abc import Sequence
from typing import Final, Literal, cast

import torch
from torch import Tensor, nn

from softrisk_training.errors import TrainingError

FusionName = Literal["linear", "orthogonal", "transformer"]
FUSIONS: Final[tuple[FusionName, ...]] = ("linear", "orthogonal", "transformer")

HEADS: Final = 4


class Fusion(nn.Module):
    """h_k = Σ_m a_k^(m) s_k^(m) + b_k with scores s^(m) = W^(m) φ^(m).

    `linear`: a is 1, and W is free; this is one linear layer on the concatenated features. `orthogonal`: a ≥ 0 is
    learnt, and training keeps the rows of each W orthonormal.

    Args:
        widths: Number of features of each modality.
        classes: Number of classes.
        scaled: Whether a is learnt.
    """

    bias: Tensor
    separable = True
    """Whether each score depends on its own modality alone."""

    def __init__(self, widths: Sequence[int], classes: int, *, scaled: bool) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, classes, bias=False) for width in widths)
        self.bias = nn.Parameter(torch.zeros(classes))
        self.signed_scale = nn.Parameter(torch.ones(len(widths), classes)) if scaled else None

    @property
    def scale(self) -> Tensor:
        """The factors a ≥ 0, shape (modalities, classes)."""
        if self.signed_scale is None:
            return torch.ones(len(self.heads), len(self.bias), device=self.bias.device)
        # A negative factor would let a sum of slopes under-count; |a| has a gradient everywhere but at 0.
        return self.signed_scale.abs()

    @property
    def weights(self) -> list[Tensor]:
        """The matrices W, shape (classes, width) for each modality."""
        return [cast(Tensor, head.weight) for head in self.heads]

    def scores(self, features: Sequence[Tensor]) -> Tensor:
        """s, shape (B, modalities, classes), of features (B, width) of each modality."""
        return torch.stack([head(each) for head, each in zip(self.heads, features, strict=True)], dim=1)

    def combine(self, scores: Tensor) -> Tensor:
        """Logits, shape (B, classes), of scores."""
        scaled = scores if self.signed_scale is None else scores * self.scale
        return scaled.sum(dim=1) + self.bias


class TransformerFusion(Fusion):
    """Fusion after one layer of self-attention between the modalities.

    The features of each modality are a token. A score then depends on every modality, and nothing about slopes can be
    proved layer by layer.

    Args:
        width: Number of features of every modality, a multiple of 4.
        modalities: How many there are.
        classes: Number of classes.
    """

    separable = False

    def __init__(self, width: int, modalities: int, classes: int) -> None:
        super().__init__([width] * modalities, classes, scaled=False)
        if width % HEADS:
            raise TrainingError(f"the fusion transformer needs a number of features that {HEADS} divides, not {width}")
        self.places = nn.Parameter(torch.randn(modalities, width) / width**0.5)
        self.attention = nn.TransformerEncoderLayer(
            width, HEADS, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )

    def scores(self, features: Sequence[Tensor]) -> Tensor:
        """s, shape (B, modalities, classes)."""
        tokens = cast(Tensor, self.attention(torch.stack(tuple(features), dim=1) + self.places))
        return super().scores(tokens.unbind(dim=1))


def build_fusion(name: FusionName, modalities: int, classes: int, features: int) -> Fusion:
    """A freshly initialised fusion.

    Raises:
        TrainingError: If there is none of that name, or it cannot have rows enough.
    """
    if name not in FUSIONS:
        raise TrainingError(f"unknown fusion {name!r}: choose one of {', '.join(FUSIONS)}")
    if name == "transformer":
        return TransformerFusion(features, modalities, classes)
    if name == "orthogonal" and features <= classes:
        raise TrainingError(
            f"{classes} orthonormal rows without mean need more than {classes} features, not {features}"
        )
    return Fusion([features] * modalities, classes, scaled=name == "orthogonal")
