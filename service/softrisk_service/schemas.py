"""What the bodies look like, for `/openapi.json`: documentation only, the codecs read and write by hand.

The tests hold every answer against these models.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from softrisk_core.conformal import Guarantee
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_service.codecs.body import OCTETS
from softrisk_service.codecs.media import IMAGE_TYPES, NPY_TYPE
from softrisk_service.policy import Decision
from softrisk_service.problems import PROBLEM_TYPE

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
    """Each a nested list in the model's input shape, or {"b64": "…"} with an encoded PNG or JPEG; for a model with
    several inputs an object of these by input name."""
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
    """Device, precision, with full disclosure calibration id, n and α, the version that answers by default, and
    `not_ready_<version>` with the reason for each version that is not served."""


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


_DESCRIPTIONS: Final = {
    400: "Not what its headers say: broken JSON, NaN, Infinity, badly packed, more or fewer bytes than declared.",
    401: "No key, or a wrong one, where the operator asks for keys.",
    403: "Asks for more than the caller may see.",
    404: "No such model or version.",
    408: "The body was not there in time.",
    413: "The body, packed or unpacked, or the number of instances or pixels in it, is over the limit.",
    415: "Media type or encoding not accepted here.",
    422: "Not an input of this model: shape, type or values; a damaged image; a parameter unknown or out of range.",
    429: "The queue is full, or too many bodies are being received.",
    503: "Not ready, or shutting down.",
    504: "No answer before the deadline.",
}

Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> Responses:
    """Error answers of a route."""
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _DESCRIPTIONS[status], "content": content} for status in statuses} | {
        "4XX": {"description": "Any other client error.", "content": content},
        "500": {"description": "A fault of the service, logged with the request id.", "content": content},
    }


def ok(model: type[BaseModel], example: dict[str, Any] | None = None) -> Responses:
    """The answer 200 of a route."""
    content = {"application/json": {"example": example}} if example else None
    return {200: {"model": model, **({"content": content} if content else {})}}


_RISK_HEADER: Final = {
    "X-Adversarial-Risk": {
        "description": "Largest risk score and number of flags, for gateways; with full disclosure only.",
        "schema": {"type": "string"},
        "example": "max=0.31; flagged=0",
    }
}

_LENGTH: Final = "Inference-Header-Content-Length"
_SIZE: Final = {"type": "integer", "minimum": 0}
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}

_PREDICTION: Final = {
    "label": 7,
    "class_name": "7",
    "confidence": 0.9987,
    "diagnostics": dict(zip(DIAGNOSTICS, (0.998, 8.1, 0.91, 0.0004, 0.88, 9.7, 9.7, 0.011), strict=True)),
    "risk": {
        "decision": "accept",
        "flagged": False,
        "alpha": 0.01,
        "p_value": 0.69,
        "score": 0.31,
        "rank": 3451,
        "nonconformity": -8.1,
    },
}

PREDICT_RESPONSES: Final[Responses] = problems(*_DESCRIPTIONS) | {
    200: ok(PredictResponse, {"model_name": "mnist", "model_version": "1", "predictions": [_PREDICTION]})[200]
    | {"headers": _RISK_HEADER}
}

INFER_RESPONSES: Final[Responses] = problems(*_DESCRIPTIONS) | {
    200: ok(
        InferResponse,
        {
            "model_name": "mnist",
            "model_version": "1",
            "id": "42",
            "parameters": {"calibration_id": "0123456789abcdef", "n": 5000, "alpha": 0.01},
            "outputs": [
                {"name": "label", "datatype": "INT64", "shape": [1], "data": [7]},
                {"name": "flagged", "datatype": "BOOL", "shape": [1], "data": [False]},
            ],
        },
    )[200]
    | {
        "headers": _RISK_HEADER
        | {_LENGTH: {"description": "Bytes of JSON before the binary tensors, if any.", "schema": _SIZE}}
    }
}
INFER_RESPONSES[200]["content"][OCTETS] = _BINARY

METRICS_RESPONSES: Final[Responses] = {
    200: {
        "description": "All metrics; OpenMetrics if the Accept header asks for it.",
        "content": {media: {"schema": {"type": "string"}} for media in ("text/plain", "application/openmetrics-text")},
    }
}

_ENCODING_PARAMETER: Final = {
    "name": "Content-Encoding",
    "in": "header",
    "description": "How the body is packed, if it is.",
    "schema": {"type": "string", "enum": ["gzip", "deflate"]},
}

PREDICT_REQUEST: Final = {
    "parameters": [_ENCODING_PARAMETER],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/PredictRequest"},
                "examples": {
                    "tensor": {
                        "summary": "A nested list (here 1×2×2)",
                        "value": {"instances": [[[[0.0, 0.5], [0.25, 1.0]]]], "parameters": {"alpha": 0.01}},
                    },
                    "image": {
                        "summary": "An encoded image",
                        "value": {"instances": [{"b64": "iVBORw0KGgo…"}], "parameters": {"probabilities": False}},
                    },
                },
            },
            **dict.fromkeys((*IMAGE_TYPES, NPY_TYPE), _BINARY),
        },
    },
}

INFER_REQUEST: Final = {
    "parameters": [
        _ENCODING_PARAMETER,
        {
            "name": _LENGTH,
            "in": "header",
            "description": "Bytes of JSON before the binary tensors; 0 if the body is the only input and nothing else.",
            "schema": _SIZE,
        },
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/InferRequest"},
                "example": {
                    "id": "42",
                    "parameters": {"alpha": 0.01},
                    "inputs": [
                        {
                            "name": "image",
                            "shape": [1, 1, 2, 2],
                            "datatype": "FP32",
                            "data": [0.0, 0.5, 0.25, 1.0],
                        }
                    ],
                    "outputs": [{"name": "label"}, {"name": "flagged"}],
                },
            },
            OCTETS: _BINARY,
        },
    },
}

REFERENCED: Final[tuple[type[BaseModel], ...]] = (PredictRequest, InferRequest, Problem)
"""Models that the descriptions above name but no route carries."""
