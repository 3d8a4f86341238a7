"""What comes back: a response becomes a typed answer or a typed error, once for both clients."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from softrisk_client.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    Problem,
    ProblemError,
    RequestTimeoutError,
    ResponseError,
    ServerError,
    TransportError,
    UnauthorizedError,
    UnexpectedResponseError,
)

Model = TypeVar("Model", bound=BaseModel)

_PROBLEMS: dict[int, type[ProblemError]] = {
    400: InvalidInputError,
    401: UnauthorizedError,
    403: UnauthorizedError,
    404: NotFoundError,
    408: DeadlineExceededError,
    413: InvalidInputError,
    415: InvalidInputError,
    422: InvalidInputError,
    429: OverloadedError,
    500: ServerError,
    503: NotReadyError,
    504: DeadlineExceededError,
}


class _ModelNames(BaseModel):
    models: tuple[str, ...]


def reader(model: type[Model]) -> Callable[[httpx2.Response], Model]:
    """Return a function that reads a response as `model`, or raises the error that the response is."""

    def read(response: httpx2.Response) -> Model:
        if not response.is_success:
            raise _refusal(response)
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            reason = f"{_described(response)}, not a {model.__name__.lstrip('_')}: {where} {first['msg']}"
            raise UnexpectedResponseError(response.status_code, reason) from error

    return read


def model_names(response: httpx2.Response) -> tuple[str, ...]:
    """Read the list of models."""
    return reader(_ModelNames)(response).models


@contextmanager
def translated(base_url: httpx2.URL | str) -> Iterator[None]:
    """Turn the HTTP library's errors into ours."""
    try:
        yield
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
        raise InvalidArgumentError(
            f"cannot send to {base_url}: {error}; expected a URL such as http://127.0.0.1:8000"
        ) from error
    except httpx2.TimeoutException as error:
        raise RequestTimeoutError(f"{base_url} did not answer in time ({type(error).__name__})") from error
    except httpx2.RequestError as error:
        reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
        reason = reason[:1].lower() + reason[1:] or type(error).__name__
        raise TransportError(f"cannot reach {base_url} ({reason})") from error


def _refusal(response: httpx2.Response) -> ResponseError:
    retry_after = _retry_after(response)
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            pass
        else:
            return _PROBLEMS.get(problem.status, ProblemError)(problem, retry_after)
    return UnexpectedResponseError(response.status_code, _described(response), retry_after)


def _described(response: httpx2.Response) -> str:
    start = " ".join(response.text[:200].split())
    return f"{response.headers.get('content-type', 'no media type')}, {start!r} from {response.request.url}"


def _retry_after(response: httpx2.Response) -> float | None:
    """Read Retry-After, seconds or an HTTP-date (RFC 9110, section 10.2.3), as seconds from now."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
