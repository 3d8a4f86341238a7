"""A classifier of several inputs: front ends, encoders, fusion."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from softrisk_training.errors import TrainingError
from softrisk_training.multimodal.encoders import EncoderName, Plane, build_encoder
from softrisk_training.multimodal.front_end import MELS, LogMel, frames_of
from softrisk_training.multimodal.fusion import Fusion, FusionName, build_fusion
from softrisk_training.multimodal.modality import LOG_MEL, PIXELS, Modality


class MultimodalClassifier(nn.Module):
    """Inputs, one for each modality, to logits.

    The way is cut where changes are measured: `represent` takes inputs into the space of their modality, `classify`
    goes on from there. Pixels are their own space.

    Args:
        front_ends: From the input of each modality to its plane.
        encoders: From the plane of each modality to its features.
        fusion: From all features to logits.
    """

    def __init__(self, front_ends: Sequence[nn.Module], encoders: Sequence[nn.Module], fusion: Fusion) -> None:
        super().__init__()
        self.front_ends = nn.ModuleList(front_ends)
        self.encoders = nn.ModuleList(encoders)
        self.fusion = fusion

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits, shape (B, classes), of inputs in the order of the modalities."""
        return self.classify(*self.represent(*inputs))

    def represent(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Planes in the space of each modality, shape (B, channels, height, width)."""
        return tuple(cast(Tensor, end(each)) for end, each in zip(self.front_ends, inputs, strict=True))

    def encode(self, *planes: Tensor) -> tuple[Tensor, ...]:
        """Features φ of each modality, shape (B, features)."""
        return tuple(cast(Tensor, encoder(each)) for encoder, each in zip(self.encoders, planes, strict=True))

    def scores(self, *planes: Tensor) -> Tensor:
        """Scores s of each modality and class, shape (B, modalities, classes), of planes."""
        return self.fusion.scores(self.encode(*planes))

    def classify(self, *planes: Tensor) -> Tensor:
        """Logits, shape (B, classes), of planes."""
        return self.fusion.combine(self.scores(*planes))


def plane_of(modality: Modality) -> Plane:
    """Shape of the plane of a modality.

    Raises:
        TrainingError: If no front end makes its space of its inputs.
    """
    if modality.space == PIXELS and len(modality.shape) == 3:
        channels, height, width = modality.shape
        return channels, height, width
    if modality.space == LOG_MEL and len(modality.shape) == 1:
        return 1, MELS, frames_of(modality.shape[0])
    raise TrainingError(
        f"the input {modality.name!r} of shape {modality.shape} has no front end for the space {modality.space!r}"
    )


def front_end_of(modality: Modality) -> nn.Module:
    """From the inputs of a modality to its planes; nothing in it is learnt."""
    return LogMel() if modality.space == LOG_MEL else nn.Identity()


def build_classifier(
    modalities: Sequence[Modality],
    classes: int,
    *,
    encoder: EncoderName,
    fusion: FusionName,
    width: int,
    features: int,
    means: Sequence[float],
    stds: Sequence[float],
) -> MultimodalClassifier:
    """A freshly initialised classifier.

    Args:
        modalities: Its inputs, in order.
        classes: Number of classes.
        encoder: Name of the encoder of every modality.
        fusion: Name of the fusion.
        width: Filters of the encoders' first layer.
        features: Number of features of each modality.
        means: Of the training planes of each modality.
        stds: Of the training planes of each modality, > 0.

    Raises:
        TrainingError: If there is no such encoder or fusion, or they do not fit the modalities.
    """
    front_ends = [front_end_of(modality) for modality in modalities]
    encoders = [
        build_encoder(encoder, plane_of(modality), width=width, features=features, mean=mean, std=std)
        for modality, mean, std in zip(modalities, means, stds, strict=True)
    ]
    return MultimodalClassifier(front_ends, encoders, build_fusion(fusion, len(modalities), classes, features))
