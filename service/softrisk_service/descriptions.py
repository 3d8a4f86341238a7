"""What routes take and answer, for `/openapi.json`: bodies by `softrisk_service.schemas`, headers, examples."""

from typing import Any, Final

from pydantic import BaseModel

from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_service.codecs.body import OCTETS
from softrisk_service.codecs.media import FILE_TYPES, NPY_TYPE
from softrisk_service.problems import PROBLEM_TYPE
from softrisk_service.schemas import InferResponse, PredictResponse

_DESCRIPTIONS: Final = {
    400: "Not what its headers say: broken JSON, NaN, Infinity, badly packed, more or fewer bytes than declared.",
    401: "No key, or a wrong one, where the operator asks for keys.",
    403: "Asks for more than the caller may see.",
    404: "No such model or version.",
    408: "The body was not there in time.",
    413: "The body, packed or unpacked, or the number of instances, pixels or samples in it, is over the limit.",
    415: "Media type or encoding not accepted here.",
    422: "Not an input of this model: shape, type or values; a file that is damaged, or of another rate or length; a "
    "missing input; a parameter unknown or out of range.",
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
                    "inputs": {
                        "summary": "An image and a recording, and a recording alone",
                        "value": {
                            "instances": [
                                {"image": {"b64": "iVBORw0KGgo…"}, "audio": {"b64": "UklGR…"}},
                                {"audio": {"b64": "UklGR…"}},
                            ]
                        },
                    },
                },
            },
            **dict.fromkeys((*FILE_TYPES, NPY_TYPE), _BINARY),
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
