"""`manifest.json`: what a bundle is, formats 1 and 2.

The format is an integer. It is raised whenever a field is added, removed or changes its meaning; a reader accepts
its own format and older ones, and refuses a newer one with the version that wrote it. Unknown fields are refused, so
that nothing in a manifest is silently ignored. `model.precision` is younger than format 1 and left out wherever it says
nothing new. Format 2 has scores other than one side of a diagnostic; what has none of them is written in format 1.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from softrisk_core.conformal import check_alpha, confident_rank, marginal_rank
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.errors import CalibrationError
from softrisk_core.scores.catalogue import find_score

FORMAT: Final = "softrisk-bundle"
FORMAT_VERSION: Final = 2
"""The newest that is read."""

NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"

OUTPUTS: Final = (
    "logits",
    "probabilities",
    "label",
    *DIAGNOSTICS,
    "nonconformity",
    "rank",
    "p_value",
    "risk_score",
    "flagged",
)
"""Outputs of `model.onnx`, in order: FP32 but for label and rank (INT64) and flagged (BOOL)."""

Precision = Literal["fp32", "fp16", "int8"]
FULL_PRECISION: Final = "fp32"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageInput(_Part):
    """How an encoded image becomes this input: decoded, converted, resized, value = pixel / 255."""

    mode: Literal["L", "RGB"]
    """`L`: one grey channel; `RGB`: three."""
    size: tuple[Positive, Positive]
    """Height and width in pixels."""
    resample: Literal["bilinear"] = "bilinear"


class InputSpec(_Part):
    """One input of `model.onnx`."""

    name: str
    datatype: Literal["FP32"] = "FP32"
    shape: tuple[int, ...]
    """With the batch axis first, written −1, as in the Open Inference Protocol."""
    domain: tuple[float, float] | None
    """Least and greatest valid value; None where it is not known (a foreign model)."""
    image: ImageInput | None = None
    """Present if encoded images are accepted for this input."""

    @model_validator(mode="after")
    def _shape_has_a_batch_axis(self) -> "InputSpec":
        if len(self.shape) < 2 or self.shape[0] != -1 or any(size < 1 for size in self.shape[1:]):
            raise ValueError(f"shape must be -1 followed by positive sizes, got {list(self.shape)}")
        return self

    @property
    def instance_shape(self) -> tuple[int, ...]:
        """Shape of one instance, without the batch axis."""
        return self.shape[1:]


class ModelFacts(_Part):
    """Where the classifier comes from."""

    origin: Literal["checkpoint", "onnx"]
    architecture: str | None = None
    parameters: int | None = None
    """Number of trained weights."""
    loss: str | None = None
    """For people, with its parameters: `DRSL(form=logit, tau=0.3)`."""
    data: str | None = None
    clean_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """On test rows, in [0, 1]."""
    precision: Precision = FULL_PRECISION
    """In which the classifier computes; the diagnosis always does in FP32. Written only where it is reduced."""

    @model_serializer(mode="wrap")
    def _full_precision_goes_without_saying(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A reader from before twins refuses the field, but can read every bundle that has none.
        fields: dict[str, Any] = handler(self)
        if self.precision == FULL_PRECISION:
            del fields["precision"]
        return fields


class Nonconformity(_Part):
    """The score whose rank is the risk. What was fitted for it is in `score.npz`.

    One side of one diagnostic is written as `{"diagnostic": …, "strange": "low" | "high"}`, as in format 1; any other
    score as `{"score": …}`.
    """

    score: str

    @model_validator(mode="before")
    @classmethod
    def _one_side_of_a_diagnostic(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.keys() == {"diagnostic", "strange"}:
            if fields["strange"] not in ("low", "high"):
                raise ValueError(f"strange must be 'low' or 'high', got {fields['strange']!r}")
            return {"score": f"{fields['diagnostic']}:{fields['strange']}"}
        return fields

    @field_validator("score")
    @classmethod
    def _score_is_known(cls, name: str) -> str:
        try:
            find_score(name)
        except CalibrationError as error:
            raise ValueError(str(error)) from error
        return name

    @model_serializer
    def _as_it_always_was(self) -> dict[str, str]:
        diagnostic, _, side = self.score.partition(":")
        return {"diagnostic": diagnostic, "strange": side} if side in ("low", "high") else {"score": self.score}

    @property
    def format_version(self) -> Literal[1, 2]:
        """The oldest format that can say it."""
        return 1 if self.score.endswith((":low", ":high")) else 2

    def __str__(self) -> str:
        diagnostic, _, side = self.score.partition(":")
        return {"low": f"−{diagnostic}", "high": diagnostic}.get(side, self.score)


class Level(_Part):
    """A false-alarm rate with its largest flagged ranks; 0 where the calibration is too small for it."""

    alpha: float
    marginal_rank: int
    confident_rank: int


class CalibrationFacts(_Part):
    """What the p-value compares with."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """First 16 hexadecimal digits of the SHA-256 of the sorted float32 scores."""
    n: Positive
    alpha: float
    """The default false-alarm rate: the one behind the graph's output `flagged`."""
    levels: tuple[Level, ...]
    data: str
    """Which clean data, for people."""

    @model_validator(mode="after")
    def _ranks_follow_from_n(self) -> "CalibrationFacts":
        try:
            check_alpha(self.alpha, self.n)
        except CalibrationError as error:
            raise ValueError(str(error)) from error
        for level in self.levels:
            expected = (marginal_rank(level.alpha, self.n), confident_rank(level.alpha, self.n))
            if (level.marginal_rank, level.confident_rank) != expected:
                raise ValueError(f"the ranks at alpha = {level.alpha} are not those of n = {self.n}: {expected}")
        return self


class Tolerance(_Part):
    """Allowed difference between implementations: |a − b| ≤ absolute + relative · |b|."""

    absolute: Annotated[float, Field(ge=0)]
    relative: Annotated[float, Field(ge=0)]


class Parity(_Part):
    """How far `model.onnx` was found from its two references when it was exported."""

    tolerance: Tolerance
    """Also the tolerance within which `golden.npz` must be repeated wherever the bundle is served."""
    batch_sizes: tuple[Positive, ...]
    source: float
    """Largest absolute difference of logits from the exported model (torch, or the ONNX file as it came)."""
    reference: float
    """Largest absolute difference of a diagnostic, or of the score, from the float64 NumPy reference."""


class FileEntry(_Part):
    """A sealed file."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class Manifest(_Part):
    """The whole of `manifest.json`."""

    format: Literal["softrisk-bundle"] = FORMAT
    format_version: Literal[1, 2]
    name: Annotated[str, Field(pattern=rf"^{NAME_PATTERN}$")]
    version: Positive
    created_at: datetime
    inputs: Annotated[tuple[InputSpec, ...], Field(min_length=1)]
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    """Class names by label."""
    opset: Positive
    model: ModelFacts
    nonconformity: Nonconformity
    calibration: CalibrationFacts
    parity: Parity
    files: dict[str, FileEntry]
    """Every file of the bundle but the manifest itself and `report/`."""
    tools: dict[str, str]
    """Versions of what made the bundle."""

    @model_validator(mode="after")
    def _format_has_the_score(self) -> "Manifest":
        if self.format_version < (needed := self.nonconformity.format_version):
            raise ValueError(f"the score {self.nonconformity.score!r} needs format {needed}, not {self.format_version}")
        return self
