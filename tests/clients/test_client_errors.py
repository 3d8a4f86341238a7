"""Refusals become typed errors, and only what a second attempt can mend is tried again."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import httpx2
import pytest
import stamina

import softrisk_client as sc
from softrisk_client._retries import backoff

if TYPE_CHECKING:
    from tests.clients.conftest import FakeService


def problem(status: int, headers: dict[str, str] | None = None, **members: object) -> httpx2.Response:
    body = {"title": "Refused", "status": status, "detail": "why", "error": "why"} | members
    media_type = {"content-type": "application/problem+json; charset=utf-8"}
    return httpx2.Response(status, json=body, headers=media_type | (headers or {}))


def asked(service: FakeService, attempts: int = 1, total_timeout: float = 45.0) -> tuple[str, ...]:
    transport = httpx2.MockTransport(service)
    with sc.Client("http://host", attempts=attempts, total_timeout=total_timeout, transport=transport) as client:
        return client.models()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, sc.InvalidInputError),
        (401, sc.UnauthorizedError),
        (403, sc.UnauthorizedError),
        (404, sc.NotFoundError),
        (405, sc.ProblemError),
        (408, sc.DeadlineExceededError),
        (413, sc.InvalidInputError),
        (415, sc.InvalidInputError),
        (422, sc.InvalidInputError),
        (429, sc.OverloadedError),
        (500, sc.ServerError),
        (503, sc.NotReadyError),
        (504, sc.DeadlineExceededError),
    ],
)
def test_a_problem_document_becomes_a_typed_error(
    service: FakeService, status: int, kind: type[sc.ProblemError]
) -> None:
    service.script.append(problem(status, request_id="1e694f8fc461c260"))
    with pytest.raises(sc.ProblemError) as caught:
        asked(service)
    error = caught.value
    assert type(error) is kind
    assert error.status == error.problem.status == status
    assert (error.problem.detail, error.problem.error) == ("why", "why")
    assert str(error) == f"{status} Refused: why (request 1e694f8fc461c260)"


def test_a_problem_with_the_v2_member_only_still_says_why(service: FakeService) -> None:
    service.script.append(problem(404, detail=""))
    with pytest.raises(sc.NotFoundError, match=r"^404 Refused: why$"):
        asked(service)


HTML = httpx2.Response(502, html="<html><h1>Bad\n  Gateway</h1></html>")


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (HTML, r"status 502\): text/html.*<h1>Bad Gateway</h1>.* from http://host/v1/models"),
        (httpx2.Response(200, html="<p>Log in</p>"), r"status 200\).*Log in.*not a ModelNames"),
        (httpx2.Response(200, json={"models": [1]}), r"models\.0 Input should be a valid string"),
        (httpx2.Response(302, headers={"location": "/login"}), r"status 302\): no media type"),
        (httpx2.Response(400, json={"title": "no problem"}), "status 400"),
        (httpx2.Response(400, headers={"content-type": "application/problem+json"}), "status 400"),
    ],
)
def test_an_answer_that_is_not_ours_says_what_it_is(
    service: FakeService, response: httpx2.Response, message: str
) -> None:
    service.script.append(response)
    with pytest.raises(sc.UnexpectedResponseError, match=message):
        asked(service)


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (
            httpx2.ConnectError("Connection refused"),
            sc.TransportError,
            r"cannot reach http://host \(connection refused\)",
        ),
        (httpx2.ReadError(""), sc.TransportError, r"cannot reach http://host \(ReadError\)"),
        (httpx2.ConnectTimeout(""), sc.RequestTimeoutError, r"http://host did not answer in time \(ConnectTimeout\)"),
    ],
)
def test_no_answer_is_a_transport_error(
    service: FakeService, raised: Exception, kind: type[Exception], message: str
) -> None:
    service.script.append(raised)
    with pytest.raises(kind, match=message):
        asked(service)


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_passing_troubles_are_retried(service: FakeService, status: int) -> None:
    service.script.extend([problem(status), httpx2.Response(status, html="<p>proxy</p>")])
    assert asked(service, attempts=3) == ("mnist",)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 422, 500])
def test_other_refusals_are_not(service: FakeService, status: int) -> None:
    service.script.append(problem(status))
    with pytest.raises(sc.ProblemError):
        asked(service, attempts=3)
    assert len(service.requests) == 1


def test_the_last_error_is_raised_when_the_attempts_are_used_up(service: FakeService) -> None:
    service.script.extend([problem(429), problem(503), problem(504)])
    with pytest.raises(sc.DeadlineExceededError):
        asked(service, attempts=3)


def test_the_response_is_closed_before_the_next_attempt(service: FakeService) -> None:
    class Body(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"{}"

        def close(self) -> None:
            closed_after.append(len(service.requests))

    closed_after: list[int] = []
    service.script.append(httpx2.Response(503, stream=Body()))
    assert asked(service, attempts=2) == ("mnist",)
    assert closed_after == [1]


def test_retry_after_is_the_wait(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    service.script.extend([problem(429, {"retry-after": "7"}), problem(503, {"retry-after": "0"})])
    with stamina.set_testing(False):
        assert asked(service, attempts=3) == ("mnist",)
    assert waits == [7.0, 0.0]


def test_a_wait_beyond_the_total_time_is_not_begun(service: FakeService) -> None:
    service.script.append(problem(429, {"retry-after": "3600"}))
    with pytest.raises(sc.OverloadedError) as caught:
        asked(service, attempts=3)
    assert caught.value.retry_after == 3600
    assert len(service.requests) == 1


def date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("30", 30), (1800, 1800), (-3600, 0), ("soon", None), ("-1", None), ("²", None), ("", None)],
)
def test_retry_after_in_seconds_or_as_a_date(service: FakeService, header: str | int, seconds: float | None) -> None:
    if isinstance(header, int):
        header = date(header)  # here, as a suite may run for minutes after it was collected
    service.script.append(httpx2.Response(429, headers={b"retry-after": header.encode("latin-1")}))
    with pytest.raises(sc.UnexpectedResponseError) as caught:
        asked(service)
    assert caught.value.retry_after == pytest.approx(seconds, abs=300)


def test_errors_that_are_not_ours_are_never_retried() -> None:
    assert backoff(10)(ValueError("a fault")) is False


def test_errors_travel_between_processes() -> None:
    errors: list[sc.SoftriskClientError] = [
        sc.NotFoundError(sc.Problem(status=404, title="t"), 1.0),
        sc.UnexpectedResponseError(502, "reason", 2.0),
        sc.RequestTimeoutError("late"),
    ]
    for error in errors:
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_an_address_where_nobody_listens_is_a_transport_error(unused_tcp_port: int) -> None:
    with sc.Client(f"http://127.0.0.1:{unused_tcp_port}", attempts=2) as client:
        with pytest.raises(sc.TransportError, match="cannot reach"):
            client.models()
        assert not client.ready()
