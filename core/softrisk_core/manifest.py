"""`manifest.json`: what a bundle is, formats 1 to 4.

The format is an integer. It is raised whenever a field is added, removed or changes its meaning; a reader accepts
its own format and older ones, and refuses a newer one with the version that wrote it. Unknown fields are refused, so
that nothing in a manifest is silently ignored. `model.precision` is younger than format 1 and left out wherever it says
nothing new. Format 2 has scores other than one side of a diagnostic, format 3 calibration groups, scores of
features, scores that were fitted to attacks, and probes, format 4 recordings, optional inputs and radii; every bundle
is written in the oldest format that can say what it is.
"""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator, model_validator

from softrisk_core.conformal import check_alpha, confident_rank, marginal_rank
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.errors import CalibrationError
from softrisk_core.groups import Grouping
from softrisk_core.part import Part, Positive
from softrisk_core.presence import presence_cases
from softrisk_core.score_facts import Nonconformity

FORMAT: Final = "softrisk-bundle"
FORMAT_VERSION: Final = 4
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

RADII: Final = ("certified_radius", "estimated_radius")
"""Further outputs where the classifier has a Lipschitz bound (`softrisk_core.radius`): FP32 (batch,), ≥ 0. A model of
several inputs has each also for every input, as `certified_radius_<input>`."""

RadiusKind = Literal["certified", "estimated"]

Precision = Literal["fp32", "fp16", "int8"]
FULL_PRECISION: Final = "fp32"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ImageInput(Part):
    """How an encoded image becomes this input: decoded, converted, resized, value = pixel / 255."""

    mode: Literal["L", "RGB"]
    """`L`: one grey channel; `RGB`: three."""
    size: tuple[Positive, Positive]
    """Height and width in pixels."""
    resample: Literal["bilinear"] = "bilinear"


class AudioInput(Part):
    """How an encoded recording becomes this input: a WAV file with one channel, values in [−1, 1].

    A shorter recording is followed by zeros, up to the length that the input's shape tells.
    """

    sample_rate: Positive
    """Samples a second. Recordings of another rate are refused, not resampled."""
    longer: Literal["refuse", "crop"] = "refuse"
    """What happens to a longer recording: `crop` takes its beginning."""


class InputSpec(Part):
    """One input of `model.onnx`."""

    unsaid = frozenset({"audio", "optional"})

    name: str
    datatype: Literal["FP32"] = "FP32"
    shape: tuple[int, ...]
    """With the batch axis first, written −1, as in the Open Inference Protocol."""
    domain: tuple[float, float] | None
    """Least and greatest valid value; None where it is not known (a foreign model)."""
    image: ImageInput | None = None
    """Present if encoded images are accepted for this input."""
    audio: AudioInput | None = None
    """Present if encoded recordings are accepted for this input."""
    optional: bool = False
    """Whether the input may be left out. It is zero then, and so is every input that is zero taken for left out: the
    instance is compared with calibration rows that lack the same inputs (`softrisk_core.presence`)."""

    @model_validator(mode="after")
    def _shape_has_a_batch_axis(self) -> "InputSpec":
        if len(self.shape) < 2 or self.shape[0] != -1 or any(size < 1 for size in self.shape[1:]):
            raise ValueError(f"shape must be -1 followed by positive sizes, got {list(self.shape)}")
        return self

    @model_validator(mode="after")
    def _recordings_have_one_channel(self) -> "InputSpec":
        if self.audio is not None and (self.image is not None or self.shape[1:-1] not in ((), (1,))):
            raise ValueError(f"recordings have one channel, shape (-1, n) or (-1, 1, n), got {list(self.shape)}")
        return self

    @property
    def instance_shape(self) -> tuple[int, ...]:
        """Shape of one instance, without the batch axis."""
        return self.shape[1:]

    @property
    def format_version(self) -> Literal[1, 4]:
        """The oldest format that can say it."""
        return 4 if self.audio is not None or self.optional else 1


class RadiusFacts(Part):
    """The radius within which the label cannot change, an output of the graph (`softrisk_core.radius`).

    It says nothing about the flag: an input within the radius has the same label, but can have another p-value.
    """

    norm: Literal["l2"] = "l2"
    """In which changes are measured: over all inputs together, or, in the outputs of one input, of that input alone."""
    spaces: dict[str, str]
    """For each input what is changed: `pixels`; `log-mel` where a front end before that is outside the bound."""
    kinds: Annotated[tuple[RadiusKind, ...], Field(min_length=1)]
    """`certified`: proved by a Lipschitz bound. `estimated`: from the largest slope that was seen; proves nothing."""
    rounding: Annotated[float, Field(ge=0)] = 0.0
    """How far a logit can be from the exact one; certified radii allow for it (`softrisk_core.radius`)."""

    @field_validator("kinds")
    @classmethod
    def _kinds_in_order(cls, kinds: tuple[RadiusKind, ...]) -> tuple[RadiusKind, ...]:
        if list(kinds) != sorted(set(kinds)):
            raise ValueError(f"kinds are certified, estimated or both, in this order, got {', '.join(kinds)}")
        return kinds

    @property
    def outputs(self) -> tuple[str, ...]:
        """Outputs of `model.onnx`, in order: for each kind the radius, and with several inputs that of each."""
        inputs = [f"_{name}" for name in self.spaces] if len(self.spaces) > 1 else []
        return tuple(f"{kind}_radius{of}" for kind in self.kinds for of in ("", *inputs))

    @property
    def format_version(self) -> Literal[4]:
        """The oldest format that can say it."""
        return 4


class ModelFacts(Part):
    """Where the classifier comes from."""

    unsaid = frozenset({"precision"})

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


class Level(Part):
    """A false-alarm rate with its largest flagged ranks; 0 where the calibration is too small for it."""

    alpha: float
    marginal_rank: int
    confident_rank: int


class CalibrationGroup(Part):
    """The calibration rows that inputs with some predicted labels are compared with, and with no others."""

    labels: Annotated[tuple[int, ...], Field(min_length=1)]
    n: Positive
    levels: tuple[Level, ...]


class CalibrationFacts(Part):
    """What the p-value compares with.

    Where inputs are optional, each presence case (`Manifest.cases`) has a calibration of its own, on the same n rows: n
    and the levels are those of each case.
    """

    unsaid = frozenset({"groups"})

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """First 16 hexadecimal digits of the SHA-256 of the float32 scores as they lie in `calibration.npz`."""
    n: Positive
    """Rows."""
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

    @property
    def format_version(self) -> Literal[1, 3]:
        """The oldest format that can say it."""
        return 3 if self.groups else 1


class Tolerance(Part):
    """Allowed difference between implementations: |a − b| ≤ absolute + relative · |b|."""

    absolute: Annotated[float, Field(ge=0)]
    relative: Annotated[float, Field(ge=0)]


class Parity(Part):
    """How far `model.onnx` was found from its two references when it was exported."""

    tolerance: Tolerance
    """Also the tolerance within which `golden.npz` must be repeated wherever the bundle is served."""
    batch_sizes: tuple[Positive, ...]
    source: float
    """Largest absolute difference of logits from the exported model (torch, or the ONNX file as it came)."""
    reference: float
    """Largest absolute difference of a diagnostic, or of the score, from the float64 NumPy reference."""


class FileEntry(Part):
    """A sealed file."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class Manifest(Part):
    """The whole of `manifest.json`."""

    unsaid = frozenset({"radius"})

    format: Literal["softrisk-bundle"] = FORMAT
    format_version: Literal[1, 2, 3, 4]
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
    radius: RadiusFacts | None = None
    """None where the classifier has no Lipschitz bound."""
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
        newer = [f"the input {spec.name!r}" for spec in self.inputs if spec.format_version > self.format_version]
        if newer or (self.radius is not None and self.format_version < self.radius.format_version):
            raise ValueError(f"{newer[0] if newer else 'a radius'} needs format 4, not {self.format_version}")
        return self

    @model_validator(mode="after")
    def _parts_fit_the_inputs(self) -> "Manifest":
        names = [spec.name for spec in self.inputs]
        if len(set(names)) < len(names):
            raise ValueError(f"inputs must have different names, got {', '.join(names)}")
        if len(self.cases) > 1 and self.calibration.groups:
            raise ValueError("a calibration has groups by label, or optional inputs, not both")
        if len(names) == 1 and self.inputs[0].optional:
            raise ValueError(f"the only input, {names[0]!r}, cannot be optional")
        if self.radius is not None and list(self.radius.spaces) != names:
            raise ValueError(f"the spaces of the radius are those of the inputs {', '.join(names)}, in this order")
        return self

    @model_validator(mode="after")
    def _every_label_has_a_group(self) -> "Manifest":
        labels = sorted(label for group in self.calibration.groups for label in group.labels)
        if labels and labels != list(range(len(self.classes))):
            raise ValueError(f"the calibration groups must hold each of the {len(self.classes)} labels once")
        return self

    @property
    def cases(self) -> tuple[tuple[str, ...], ...]:
        """Names of the inputs that are present in each presence case, in the order of their calibration scores.

        The first has all inputs; it is the only one where none is optional.
        """
        return presence_cases({spec.name: spec.optional for spec in self.inputs})

    @property
    def outputs(self) -> tuple[str, ...]:
        """`OUTPUTS`, and what this bundle adds to them: its radii."""
        return OUTPUTS if self.radius is None else (*OUTPUTS, *self.radius.outputs)

    @property
    def grouping(self) -> Grouping:
        """The calibration groups by predicted label: one in the marginal case.

        Presence cases make no difference to it: each has n rows, so that ranks mean the same in all of them.
        """
        groups = self.calibration.groups
        if not groups:
            return Grouping.marginal(self.calibration.n, len(self.classes))
        of_label = {label: index for index, group in enumerate(groups) for label in group.labels}
        return Grouping(tuple(of_label[label] for label in sorted(of_label)), tuple(group.n for group in groups))
