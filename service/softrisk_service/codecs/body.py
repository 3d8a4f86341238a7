"""From the bytes of a request to a JSON document or a media type."""

from typing import Any

import orjson
from starlette.requests import Request

from softrisk_service.errors import InvalidInputError, MalformedError, MediaTypeError, TooLargeError

JSON = "application/json"


def media_type(request: Request) -> str:
    """The body's media type without parameters; JSON if the request names none, as the protocols' clients do.

    Raises:
        MediaTypeError: If the body is compressed.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise MediaTypeError("compressed bodies are not accepted: send the body without Content-Encoding")
    return request.headers.get("content-type", JSON).partition(";")[0].strip().lower()


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, never holding more than a limit.

    Raises:
        TooLargeError: If it is longer than `limit` bytes, announced or not.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > limit):
        raise TooLargeError(f"the body has {announced[:18]} bytes, more than the {limit} that are accepted")
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit:
            raise TooLargeError(f"the body is longer than the {limit} bytes that are accepted")
        body += chunk
    return bytes(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        MalformedError: If it is not JSON (which has no NaN and no Infinity), or nested too deeply.
        InvalidInputError: If it is JSON but no object, or holds a number beyond float64.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("number is infinity"):  # such as 1e999: JSON, but no number a tensor can hold
            raise InvalidInputError("the body holds a number that overflows") from error
        raise MalformedError(f"the body is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInputError("the body must be a JSON object")
    return document


def read_alpha(parameters: dict[str, Any], default: float) -> float:
    """The parameter `alpha`, a number; its range is checked where the rank limit is found.

    Raises:
        InvalidInputError: If it is not a number.
    """
    alpha = parameters.get("alpha", default)
    if type(alpha) not in (int, float):
        raise InvalidInputError("parameters.alpha: expected a number between 0 and 1")
    return float(alpha)


def read_parameters(document: dict[str, Any]) -> dict[str, Any]:
    """The member `parameters`, an object; empty if it is absent or null.

    Raises:
        InvalidInputError: If it is anything else.
    """
    parameters = document.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidInputError("parameters: expected an object")
    return parameters
