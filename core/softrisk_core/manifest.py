"""`manifest.json`: what a bundle is, formats 1 to 3.

The format is an integer. It is raised whenever a field is added, removed or changes its meaning; a reader accepts
its own format and older ones, and refuses a newer one with the version that wrote it. Unknown fields are refused, so
that nothing in a manifest is silently ignored. `model.precision` is younger than format 1 and left out wherever it says
nothing new. Format 2 has scores other than one side of a diagnostic, format 3 calibration groups, scores of
features, scores that were fitted to attacks, and probes; every bundle is written in the oldest format that can say what
it is.
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
from softrisk_core.groups import Grouping
from softrisk_core.probes import PROBES
from softrisk_core.scores.catalogue import find_score

FORMAT: Final = "softrisk-bundle"
FORMAT_VERSION: Final = 3
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

FEATURES: Final = "softrisk/features"
"""A further output of `model.onnx` where the score reads them: FP32 (batch, D). The service does not give them away."""

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


class GatePoint(_Part):
    """What probing a share of the traffic costs and brings."""

    passes: Annotated[float, Field(ge=1)]
    """Forward passes for a clean input, nominally: 1 + share · P for the share that the gate was made to leave
    undecided, and P probes."""
    worst: Annotated[float, Field(ge=0, le=1)]
    """Detected share of an attack at 5 % false alarms: of the attack where it is least, and …"""
    mean: Annotated[float, Field(ge=0, le=1)]
    """… on average."""


class ProbeFacts(_Part):
    """When and how inputs are probed."""

    mode: Literal["auto", "always"]
    """`auto`: where the score without probes is undecided."""
    names: Annotated[tuple[str, ...], Field(min_length=1)]
    """Some of `softrisk_core.probes.PROBES`: declared to keep the labels of this model's inputs."""
    passes: Annotated[float, Field(ge=1)]
    """Forward passes for a clean input, on average over the calibration rows."""
    curve: tuple[GatePoint, ...] = ()
    """Among which gates `auto` was chosen, on rows of their own, each attack judged without its family.

    With one family there is none to leave out: then the curve says nothing about attacks of another.
    """

    @field_validator("names")
    @classmethod
    def _probes_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if names != tuple(name for name in PROBES if name in names):
            raise ValueError(f"probes are some of {', '.join(PROBES)}, in this order, got {', '.join(names)}")
        return names


class Candidate(_Part):
    """A score that could have been chosen."""

    score: str
    worst: Annotated[float, Field(ge=0, le=1)]
    """Detected share of an attack at 5 % false alarms: of the attack where it is least."""
    attack: str
    """That attack."""
    mean: Annotated[float, Field(ge=0, le=1)]
    """The same on average over all attacks."""


class Choice(_Part):
    """Among what a score was chosen, and by what.

    Each attack was judged by scores that were fitted without any of its family, on rows that fitted nothing; the score
    with the largest `worst` was taken, among equal ones that with the largest `mean`. In the mode `auto` the score
    `probed` was judged behind its gate.
    """

    rows: Positive
    """Clean ones that fixed the limit of each score."""
    families: tuple[str, ...]
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1)]


class Nonconformity(_Part):
    """The score whose rank is the risk. What was fitted for it is in `score.npz`.

    One side of one diagnostic is written as `{"diagnostic": …, "strange": "low" | "high"}`, as in format 1; any other
    score as `{"score": …}`, from format 3 on with what it was fitted to and chosen among, and its probes.
    """

    score: str
    families: tuple[str, ...] = ()
    """Of the attacks that it was fitted to; none for what needs no attacks."""
    probes: ProbeFacts | None = None
    choice: Choice | None = None
    """None where somebody named the score."""
    features: Annotated[str, Field(min_length=1)] | None = None
    """The classifier's own name for the tensor whose values the score reads; None where it reads logits."""

    @model_validator(mode="before")
    @classmethod
    def _one_side_of_a_diagnostic(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and {"diagnostic", "strange"} <= fields.keys():
            if fields["strange"] not in ("low", "high"):
                raise ValueError(f"strange must be 'low' or 'high', got {fields['strange']!r}")
            score = f"{fields['diagnostic']}:{fields['strange']}"
            return {"score": score, **{key: fields[key] for key in fields.keys() - {"diagnostic", "strange"}}}
        return fields

    @field_validator("score")
    @classmethod
    def _score_is_known(cls, name: str) -> str:
        try:
            find_score(name)
        except CalibrationError as error:
            raise ValueError(str(error)) from error
        return name

    @model_validator(mode="after")
    def _probes_belong_to_the_score(self) -> "Nonconformity":
        if (self.probes is not None) != (self.score == "probed"):
            raise ValueError("the score 'probed' has probes, and no other")
        return self

    @model_validator(mode="after")
    def _features_belong_to_the_score(self) -> "Nonconformity":
        if (self.features is not None) != (find_score(self.score).needs == "features"):
            raise ValueError("scores of features name their tensor, and no other does")
        return self

    @model_serializer(mode="wrap")
    def _as_it_always_was(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = {name: value for name, value in handler(self).items() if value}
        diagnostic, _, side = self.score.partition(":")
        if side in ("low", "high"):
            del fields["score"]
            return {"diagnostic": diagnostic, "strange": side, **fields}
        return fields

    @property
    def format_version(self) -> Literal[1, 2, 3]:
        """The oldest format that can say it."""
        if self.families or self.probes or self.choice or find_score(self.score).needs in ("features", "attacks"):
            return 3
        return 1 if self.score.endswith((":low", ":high")) else 2

    def __str__(self) -> str:
        diagnostic, _, side = self.score.partition(":")
        name = {"low": f"−{diagnostic}", "high": diagnostic}.get(side, self.score)
        if self.features is not None:
            return f"{name} of {self.features}"
        return name if self.probes is None else f"{name}, {self.probes.mode}: {', '.join(self.probes.names)}"


class Level(_Part):
    """A false-alarm rate with its largest flagged ranks; 0 where the calibration is too small for it."""

    alpha: float
    marginal_rank: int
    confident_rank: int


class CalibrationGroup(_Part):
    """The calibration rows that inputs with some predicted labels are compared with, and with no others."""

    labels: Annotated[tuple[int, ...], Field(min_length=1)]
    n: Positive
    levels: tuple[Level, ...]


class CalibrationFacts(_Part):
    """What the p-value compares with."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """First 16 hexadecimal digits of the SHA-256 of the float32 scores as they lie in `calibration.npz`."""
    n: Positive
    alpha: float
    """The default false-alarm rate: the one behind the graph's output `flagged`."""
    levels: tuple[Level, ...]
    """Empty where there are groups, which have levels of their own."""
    data: str
    """Which clean data, for people."""
    groups: tuple[CalibrationGroup, ...] = ()
    """In the order of their scores; every label is in one of them. Empty for a marginal calibration."""

    @model_validator(mode="after")
    def _ranks_follow_from_n(self) -> "CalibrationFacts":
        if self.groups and (self.levels or sum(group.n for group in self.groups) != self.n):
            raise ValueError(f"groups have levels of their own, and n = {self.n} rows together")
        for n, levels in [(group.n, group.levels) for group in self.groups] or [(self.n, self.levels)]:
            try:
                check_alpha(self.alpha, n)
            except CalibrationError as error:
                raise ValueError(str(error)) from error
            for level in levels:
                expected = (marginal_rank(level.alpha, n), confident_rank(level.alpha, n))
                if (level.marginal_rank, level.confident_rank) != expected:
                    raise ValueError(f"the ranks at alpha = {level.alpha} are not those of n = {n}: {expected}")
        return self

    @model_serializer(mode="wrap")
    def _one_group_goes_without_saying(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A reader from before groups refuses the field, but can read every bundle that has none.
        fields: dict[str, Any] = handler(self)
        if not self.groups:
            del fields["groups"]
        return fields

    @property
    def format_version(self) -> Literal[1, 3]:
        """The oldest format that can say it."""
        return 3 if self.groups else 1


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
    format_version: Literal[1, 2, 3]
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
    def _format_can_say_it(self) -> "Manifest":
        if self.format_version < (needed := self.nonconformity.format_version):
            raise ValueError(f"the score {self.nonconformity.score!r} needs format {needed}, not {self.format_version}")
        if self.format_version < self.calibration.format_version:
            raise ValueError(f"calibration groups need format 3, not {self.format_version}")
        return self

    @model_validator(mode="after")
    def _every_label_has_a_group(self) -> "Manifest":
        labels = sorted(label for group in self.calibration.groups for label in group.labels)
        if labels and labels != list(range(len(self.classes))):
            raise ValueError(f"the calibration groups must hold each of the {len(self.classes)} labels once")
        return self

    @property
    def grouping(self) -> Grouping:
        """The calibration groups: one in the marginal case."""
        groups = self.calibration.groups
        if not groups:
            return Grouping.marginal(self.calibration.n, len(self.classes))
        of_label = {label: index for index, group in enumerate(groups) for label in group.labels}
        return Grouping(tuple(of_label[label] for label in sorted(of_label)), tuple(group.n for group in groups))
