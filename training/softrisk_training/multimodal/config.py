"""What a multi-modal training is asked for."""

from dataclasses import asdict, dataclass
from typing import Final

from softrisk_training.errors import TrainingError
from softrisk_training.multimodal.encoders import WIDTHS, EncoderName
from softrisk_training.multimodal.fusion import FusionName
from softrisk_training.multimodal.objectives import METHODS, Method

RHO: Final[dict[EncoderName, float]] = {"lipschitz": 0.5, "small-cnn": 2.0}
"""Weights ρ, unless the user says otherwise: the authors', and a smaller one where slopes are held down and margins
never grow as large as to fade out of the loss."""
EPSILON: Final = 0.5
"""ℓ2 radius of the attack in training, unless the user says otherwise."""


@dataclass(frozen=True)
class MultimodalConfig:
    """All that decides, with the pairs, which weights come out.

    Attributes:
        method: Name of the method.
        encoder: Name of the encoder of every modality.
        fusion: Name of the fusion; None for `orthogonal` where the method needs factors, `linear` otherwise.
        width: Filters of the encoders' first layer; None for what suits the encoder.
        features: Number of features of each modality.
        epochs: Passes over the training rows in the first step, ≥ 1.
        batch_size: Rows in a step, ≥ 1.
        learning_rate: Peak of the one-cycle schedule of AdamW.
        rho: Weight ρ ≥ 0 of the modalities' margins, in methods that have them; None for what suits the encoder.
        epsilon: ℓ2 radius > 0 of the attack, over all planes together, in methods that have it; None for 0.5.
        rows_only: Whether rows of an orthogonal fusion are only centred and normalised, as in the authors' code.
        modality_dropout: Probability, in [0, 1), that a training row lacks a modality: that one is zero.
        seed: Of initialisation, row order, mixing and dropout.
    """

    method: Method = "crmt"
    encoder: EncoderName = "lipschitz"
    fusion: FusionName | None = None
    width: int | None = None
    features: int = 64
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 3e-3
    rho: float | None = None
    epsilon: float | None = None
    rows_only: bool = False
    modality_dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise TrainingError(f"unknown method {self.method!r}: choose one of {', '.join(METHODS)}")
        if self.encoder not in WIDTHS:
            raise TrainingError(f"unknown encoder {self.encoder!r}: choose one of {', '.join(WIDTHS)}")
        for name in ("features", "epochs", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{name.replace('_', ' ')} must be greater than 0, got {getattr(self, name)}")
        if self.rho is not None and not self.rho >= 0:
            raise TrainingError(f"rho must not be negative, got {self.rho:g}")
        if self.rho is not None and not METHODS[self.method].certifies:
            raise TrainingError(f"rho weighs the margins of crmt, which {self.method} has not; leave it out")
        if self.epsilon is not None and not self.epsilon > 0:
            raise TrainingError(f"epsilon must be greater than 0, got {self.epsilon:g}")
        if self.epsilon is not None and not METHODS[self.method].attacked:
            raise TrainingError(f"epsilon is of an attack in training, which {self.method} has not; leave it out")
        if not 0 <= self.modality_dropout < 1:
            raise TrainingError(f"modality dropout must be in [0, 1), got {self.modality_dropout:g}")
        if METHODS[self.method].certifies and self.fusion not in (None, "orthogonal"):
            raise TrainingError(
                f"the second step of {self.method} trains the factors of the fusion orthogonal, which {self.fusion} "
                "has not; leave the fusion out"
            )
        if self.rows_only and self.fusion_name != "orthogonal":
            raise TrainingError(
                f"rows can be held to be centred and normalised in the fusion orthogonal only, not in "
                f"{self.fusion_name}"
            )

    @property
    def fusion_name(self) -> FusionName:
        """The fusion, where none is given that of the method."""
        return self.fusion or ("orthogonal" if METHODS[self.method].certifies else "linear")

    @property
    def margin_weight(self) -> float:
        """The weight ρ, where none is given that of the encoder."""
        return RHO[self.encoder] if self.rho is None else self.rho

    @property
    def radius(self) -> float:
        """The radius ε of the attack, where none is given the usual one."""
        return EPSILON if self.epsilon is None else self.epsilon

    @property
    def settings(self) -> dict[str, float | str | bool]:
        """What a checkpoint records beside method, epochs and seed."""
        recorded = {name: value for name, value in asdict(self).items() if name not in ("method", "epochs", "seed")}
        return {
            **recorded,
            "fusion": self.fusion_name,
            "width": self.width or WIDTHS[self.encoder],
            "rho": self.margin_weight,
            "epsilon": self.radius,
        }
