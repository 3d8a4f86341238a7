"""What happens around every request: its id, its line in the log, its count, and faults of ours."""

import asyncio
import itertools
import os
import re
import time
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softrisk_service.catalogue import ServedVersion
from softrisk_service.errors import ClientGoneError
from softrisk_service.metrics import Metrics
from softrisk_service.problems import problem

CLIENT_CLOSED: Final = 499
"""nginx's code for a caller that did not wait for the answer; only in logs and metrics."""

SHUTTING_DOWN: Final = "the server is shutting down"

_QUIET: Final = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

log = structlog.get_logger()


class Recorded(Protocol):
    """What is told about a request."""

    protocol: str | None
    """`v1` or `v2` for inference, else None."""
    served: ServedVersion | None
    """The model that answers, once it is found."""

    @property
    def request_id(self) -> str:
        """The caller's `X-Request-ID` if it is plain and short, else a new one."""

    @property
    def method(self) -> str:
        """HTTP method."""

    @property
    def path(self) -> str:
        """Without the query."""

    @property
    def start(self) -> float:
        """When it began, on the clock of `time.perf_counter`."""


@dataclass(slots=True)
class Record:
    """`Recorded`, at `request.state.record`."""

    request_id: str
    method: str
    path: str
    start: float
    protocol: str | None = None
    served: ServedVersion | None = None


class Recorder:
    """Keeps count of all requests of a process, whichever way they take.

    Args:
        metrics: Where inference requests and faults are counted.
        access_log: Whether to write a line for each request.
    """

    def __init__(self, metrics: Metrics, access_log: bool) -> None:
        self._metrics = metrics
        self._access_log = access_log
        # Unique over processes and restarts, without asking the system for random numbers each time.
        self._series = os.urandom(6).hex()
        self._numbers = itertools.count(1)

    def request_id(self, given: str | None) -> str:
        """The id of a request.

        Args:
            given: Its `X-Request-ID`.
        """
        if given is None or not _REQUEST_ID.fullmatch(given):
            return f"{self._series}-{next(self._numbers):x}"
        return given

    def end(self, record: Recorded, status: int) -> None:
        """Count a request and write its line.

        Args:
            record: Its record.
            status: Of its answer.
        """
        served = record.served
        model, version = (served.name, served.version) if served else ("", "")
        if record.protocol is not None:
            self._metrics.count_request(model, version, record.protocol, status)
        if self._access_log:
            write = log.debug if record.path in _QUIET else log.info
            write(
                "request",
                method=record.method,
                path=record.path[:256],
                model=model,
                version=version,
                code=status,
                milliseconds=round((time.perf_counter() - record.start) * 1000, 3),
                request_id=record.request_id,
            )

    def fault(self, record: Recorded, error: BaseException) -> str:
        """Count and log a fault of ours.

        Returns:
            What the caller may know.
        """
        self._metrics.internal_errors.inc()
        log.error("internal error", path=record.path[:256], request_id=record.request_id, exc_info=error)
        return f"a fault of the service, logged with the id {record.request_id}"


class RecordRequests:
    """ASGI middleware, outermost.

    Args:
        app: What it wraps.
        recorder: Who keeps count.
    """

    def __init__(self, app: ASGIApp, recorder: Recorder) -> None:
        self._app = app
        self._recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event stream."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        request_id = self._recorder.request_id(request.headers.get("x-request-id"))
        record = Record(request_id, scope["method"], scope["path"], time.perf_counter())
        request.state.record = record
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", record.request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except (ClientDisconnect, ClientGoneError):
            status = CLIENT_CLOSED
        except asyncio.CancelledError:
            if status:
                raise
            # The server cancels what is still running when its time for shutting down is over.
            await problem(request, 503, SHUTTING_DOWN, {"retry-after": "1"})(scope, receive, send_with_id)
        except Exception as error:
            detail = self._recorder.fault(record, error)
            if status:  # half an answer is out: only the server can cut it off
                status = 500
                raise
            await problem(request, 500, detail)(scope, receive, send_with_id)
        finally:
            self._recorder.end(record, status)
