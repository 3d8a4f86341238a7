"""Error answers: problem details (RFC 9457) whose extension member `error` is what V2 clients read."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from softrisk_service.errors import RequestError

PROBLEM_TYPE: Final = "application/problem+json"


def problem_document(request_id: str, status: int, detail: str, **members: Any) -> bytes:
    """The body of an error answer.

    Args:
        request_id: Of the request.
        status: HTTP status.
        detail: What was wrong, what was expected.
        **members: Further extension members.
    """
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "error": detail,
        "request_id": request_id,
        **members,
    }
    return orjson.dumps(document)


def problem(
    request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """An error answer.

    Args:
        request: What it answers.
        status: HTTP status.
        detail: What was wrong, what was expected.
        headers: Headers of the answer.
        **members: Further extension members.
    """
    document = problem_document(request.state.record.request_id, status, detail, **members)
    return Response(document, status, headers, media_type=PROBLEM_TYPE)


def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return problem(request, error.status, str(error), error.headers)


def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = {404: "no such path; the API is described at /docs", 405: f"{request.method} is not allowed here"}.get(
        error.status_code, error.detail
    )
    return problem(request, error.status_code, detail, error.headers)


def install(app: FastAPI) -> None:
    """Answer every refused request of an app with a problem."""
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(HTTPException, _http_exception)
