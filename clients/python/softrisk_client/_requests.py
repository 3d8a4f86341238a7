"""What is sent: every call as plain data, built once for the synchronous and the asynchronous client."""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2

from softrisk_client import _responses
from softrisk_client.errors import InvalidArgumentError
from softrisk_client.types import InferResponse, Instances, ModelMetadata, PredictResponse, Tensor

Answer = TypeVar("Answer")

_JSON = {"content-type": "application/json"}
_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """A request, and how its response is read."""

    method: str
    path: str
    read: Callable[[httpx2.Response], Answer]
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def predict(
    instances: Instances,
    *,
    model: str | None,
    version: int | None,
    alpha: float | None,
    guarantee: str | None,
    probabilities: bool | None,
) -> Call[PredictResponse]:
    """Build a V1 predict request."""
    if isinstance(instances, Mapping | Path | str | bytes):
        instances = [instances]
    if isinstance(instances, Sequence):
        instances = [_opened(instance) for instance in instances]
    parameters = {"alpha": alpha, "guarantee": guarantee, "probabilities": probabilities}
    body = {"instances": instances, "parameters": {k: v for k, v in parameters.items() if v is not None}}
    return Call("POST", _predict_path(model, version), _responses.reader(PredictResponse), _encode(body), _JSON)


def predict_image(image: bytes | Path, *, model: str | None, version: int | None) -> Call[PredictResponse]:
    """Build a V1 predict request whose body is one encoded image."""
    data = image.read_bytes() if isinstance(image, Path) else image
    media_type = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
    if media_type is None:
        what = str(image) if isinstance(image, Path) else f"the data, which start with {data[:8]!r},"
        raise InvalidArgumentError(f"{what} is neither a PNG nor a JPEG file")
    headers = {"content-type": media_type}
    return Call("POST", _predict_path(model, version), _responses.reader(PredictResponse), data, headers)


def infer(
    inputs: Sequence[Tensor],
    *,
    outputs: Sequence[str] | None,
    model: str | None,
    version: int | None,
    alpha: float | None,
) -> Call[InferResponse]:
    """Build a V2 infer request."""
    body: dict[str, Any] = {"inputs": [tensor.model_dump() for tensor in inputs]}
    if outputs is not None:
        body["outputs"] = [{"name": name} for name in outputs]
    if alpha is not None:
        body["parameters"] = {"alpha": alpha}
    versions = "" if version is None else f"/versions/{version}"
    path = f"/v2/models/{_name(model)}{versions}/infer"
    return Call("POST", path, _responses.reader(InferResponse), _encode(body), _JSON)


def models() -> Call[tuple[str, ...]]:
    """Build the request for the names of the models."""
    return Call("GET", "/v1/models", _responses.model_names)


def model(name: str | None) -> Call[ModelMetadata]:
    """Build the request for a model's metadata."""
    return Call("GET", f"/v2/models/{_name(name)}", _responses.reader(ModelMetadata))


def headers(api_key: str | None, others: Mapping[str, str] | None) -> httpx2.Headers:
    """Build the headers of every request."""
    sent = httpx2.Headers(others)
    if api_key is not None:
        # The HTTP library would quote a header that it cannot send, and a key does not belong into an error.
        if not re.fullmatch(r"[!-~]+", api_key):
            raise InvalidArgumentError("the API key is empty or has characters that no key has; was it pasted whole?")
        sent["authorization"] = f"Bearer {api_key}"
    return sent


def _predict_path(model: str | None, version: int | None) -> str:
    versions = "" if version is None else f"/versions/{version}"
    return f"/v1/models/{_name(model)}{versions}:predict"


def _name(model: str | None) -> str:
    if model is None:
        raise InvalidArgumentError("no model named; say Client(model=…) once, or model=… with the call")
    return quote(model, safe="")


def _encode(body: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(body, default=_jsonable, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"the input has no JSON form ({error}); expected nested lists or arrays of finite numbers, "
            "encoded files as bytes or paths, or dicts of these by input name"
        ) from error
    return text.encode()


def _opened(instance: object) -> object:
    """The instance with paths in place of strings, which no tensor is; what is `{"b64": …}` already stays."""
    if isinstance(instance, Mapping):
        if set(instance) == {"b64"}:
            return dict(instance)
        return {name: _opened(value) for name, value in instance.items()}
    return Path(instance) if isinstance(instance, str) else instance


def _jsonable(value: Any) -> object:
    if isinstance(value, Path):
        value = value.read_bytes()
    if isinstance(value, bytes):
        return {"b64": b64encode(value).decode()}
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is not serializable")
