"""What the bodies look like, for `/openapi.json`: documentation only, the codecs read and write by hand.

The tests hold every answer against these models.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from softrisk_core.conformal import Guarantee
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_service.policy import Decision

Share = Annotated[float, Field(ge=0, le=1)]
Scalar = str | int | float | bool


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class PredictParameters(_Body):
    """Parameters of a predict request."""

    alpha: Annotated[float, Field(gt=0, lt=1)] | None = None
    """False-alarm rate of `flagged`, at least 1/(n+1); by default the operator's level for `review`."""
    guarantee: Guarantee = "marginal"
    """`confident`: the rate holds with 95 % confidence over the draw of the calibration set."""
    probabilities: bool = True
    """Whether predictions list the probabilities of all classes."""


class PredictRequest(_Body):
    """V1 request."""

    instances: Annotated[list[Any], Field(min_length=1)]
    """Each a nested list in the model's input shape, or {"b64": "…"} with an encoded PNG, JPEG or WAV file; for a model
    with several inputs an object of these by input name, without those that are missing where they may be."""
    parameters: PredictParameters | None = None


Diagnostics = create_model(
    "Diagnostics",
    __config__=ConfigDict(extra="forbid"),
    __doc__="Softmax diagnostics, from logits.",
    **dict.fromkeys(DIAGNOSTICS, (float, ...)),  # type: ignore[call-overload] # names known at run time only
)


class Risk(_Body):
    """How strange the input is, compared with clean calibration data."""

    decision: Decision
    """By the operator's two levels; does not depend on the request's α."""
    flagged: bool
    """Whether the rank is within the limit of the request's α."""
    decile: Annotated[int, Field(ge=0, le=9)] | None = None
    """Tenth of the range of scores that the score is in, 9 the strangest; only with coarse disclosure, which has none
    of the members below."""
    alpha: float | None = None
    """The false-alarm rate behind `flagged`."""
    p_value: Share | None = None
    """rank / (n + 1)."""
    score: Share | None = None
    """1 − p_value: stranger than this share of clean traffic."""
    rank: Annotated[int, Field(ge=1)] | None = None
    """1 + number of calibration scores that are at least as strange."""
    nonconformity: float | None = None
    """The score itself; larger is stranger."""


class InputRadius(_Body):
    """Within which distance, in the radius's norm, changes of one input alone leave the label as it is."""

    certified: Annotated[float, Field(ge=0)] | None = None
    estimated: Annotated[float, Field(ge=0)] | None = None


class Radius(InputRadius):
    """Within which distance no change of the inputs, all at once, changes the label. The flag can change."""

    certified: Annotated[float, Field(ge=0)] | None = None
    """Proved by a Lipschitz bound."""
    estimated: Annotated[float, Field(ge=0)] | None = None
    """From the largest slopes that were seen; proves nothing."""
    norm: Literal["l2"]
    space: dict[str, str]
    """For each input what is changed, such as `pixels`, or `log-mel` where a front end before that is outside the
    bound."""
    inputs: dict[str, InputRadius] | None = None
    """Of models with several inputs: where one of them alone is changed; 0 for one that is missing."""


class Prediction(_Body):
    """The answer for one instance."""

    label: Annotated[int, Field(ge=0)]
    class_name: str
    confidence: Share | None = None
    """Absent without full disclosure."""
    probabilities: list[Share] | None = None
    """Absent if the request said so, and without full disclosure."""
    diagnostics: Diagnostics | None = None  # type: ignore[valid-type] # made by create_model
    """Absent without full disclosure."""
    risk: Risk | None = None
    """Absent if the operator discloses nothing but the label to this caller."""
    radius: Radius | None = None
    """Absent without full disclosure, and of models without a Lipschitz bound."""


class PredictResponse(_Body):
    """V1 answer."""

    model_name: str
    model_version: str
    predictions: list[Prediction]


class ModelList(_Body):
    """Names of all models."""

    models: list[str]


class ModelState(_Body):
    """State of a model."""

    name: str
    ready: Literal[True]


class InferInput(_Body):
    """An input tensor."""

    name: str
    shape: list[int]
    """With the batch first."""
    datatype: Literal["FP32"]
    parameters: dict[str, Scalar] | None = None
    """`binary_data_size`: the values follow the JSON, in this many bytes."""
    data: list[Any] | None = None
    """Flat and row-major, or nested; absent if the values are binary."""


class InferWanted(_Body):
    """A wanted output."""

    name: str
    parameters: dict[str, Scalar] | None = None
    """`binary_data`: whether its values are to follow the JSON."""


class InferRequest(_Body):
    """V2 request."""

    id: str | None = None
    parameters: dict[str, Scalar] | None = None
    """`alpha`: false-alarm rate of the output `flagged`; `guarantee`: `marginal` or `confident`; `binary_data_output`:
    what `binary_data` is for outputs that do not say. Others are refused, but for a few that clients send unasked
    (`content_type`, `priority`, `timeout`, `sequence_…`) and that change nothing."""
    inputs: list[InferInput]
    """Those that may be left out (`optional_inputs` in the model's metadata) need not come; they are zero then."""
    outputs: list[InferWanted] | None = None
    """By default all that the metadata list, which are those that the caller may see."""


class BinaryParameters(_Body):
    """Where the values of an output are."""

    binary_data_size: int
    """They follow the JSON, behind those of the outputs before, in this many bytes."""


class InferOutput(_Body):
    """An output tensor."""

    name: str
    datatype: Literal["FP32", "INT64", "BOOL"]
    shape: list[int]
    parameters: BinaryParameters | None = None
    data: list[float | bool] | None = None
    """Flat and row-major; absent if the values are binary."""


class AnswerParameters(_Body):
    """What the answer's p-values and flags rest on."""

    calibration_id: str
    n: int
    alpha: float


class InferResponse(_Body):
    """V2 answer."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: AnswerParameters | None = None
    """Absent without full disclosure."""
    outputs: list[InferOutput]


class ServerMetadata(_Body):
    """V2 server metadata."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(_Body):
    """Name and type of a tensor; −1 for the batch."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(_Body):
    """V2 model metadata."""

    name: str
    versions: list[str]
    """Those that are ready."""
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Scalar]
    """Device, precision, the version that answers by default, and `not_ready_<version>` with the reason for each
    version that is not served; `optional_inputs`, with commas, and `sample_rate_<input>` of recordings; with full
    disclosure calibration id, n and α, `radius_norm` and `radius_space_<input>`."""


class Live(_Body):
    """Liveness."""

    live: Literal[True]


class Ready(_Body):
    """Readiness."""

    ready: Literal[True]


class VersionState(_Body):
    """State of a model version."""

    name: str
    version: str
    ready: bool
    reason: str | None = None


class Readiness(Ready):
    """Readiness with the state of every version."""

    versions: list[VersionState]


class Problem(BaseModel):
    """Problem details (RFC 9457); `error` repeats `detail` for V2 clients."""

    type: str
    title: str
    status: int
    detail: str
    error: str
    request_id: str


REFERENCED: Final[tuple[type[BaseModel], ...]] = (PredictRequest, InferRequest, Problem)
"""Models that the descriptions above name but no route carries."""
