"""What happens around every request: its id, its line in the log, its count, and faults of ours."""

import asyncio
import os
import re
import time
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softrisk_service.engine import ServedVersion
from softrisk_service.errors import ClientGoneError
from softrisk_service.metrics import Metrics
from softrisk_service.problems import problem

CLIENT_CLOSED: Final = 499
"""nginx's code for a caller that did not wait for the answer; only in logs and metrics."""

_QUIET: Final = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

log = structlog.get_logger()


@dataclass
class Record:
    """What the handlers tell about a request, at `request.state.record`.

    Attributes:
        request_id: The caller's `X-Request-ID` if it is plain and short, else a new one.
        protocol: `v1` or `v2` for inference, else None.
        served: The model that answers, once it is found.
    """

    request_id: str
    protocol: str | None = None
    served: ServedVersion | None = None


class RequestRecorder:
    """ASGI middleware, outermost.

    Args:
        app: What it wraps.
        metrics: Where inference requests and faults are counted.
        access_log: Whether to write a line for each request.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, access_log: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event stream."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        request = Request(scope)
        given = request.headers.get("x-request-id", "")
        record = Record(given if _REQUEST_ID.fullmatch(given) else os.urandom(8).hex())
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
            detail = "the server is shutting down"
            await problem(request, 503, detail, {"retry-after": "1"})(scope, receive, send_with_id)
        except Exception:
            self._metrics.internal_errors.inc()
            log.exception("internal error", path=scope["path"][:256], request_id=record.request_id)
            if status:  # half an answer is out: only the server can cut it off
                status = 500
                raise
            detail = f"a fault of the service, logged with the id {record.request_id}"
            await problem(request, 500, detail)(scope, receive, send_with_id)
        finally:
            self._tell(scope, record, status, time.perf_counter() - start)

    def _tell(self, scope: Scope, record: Record, status: int, seconds: float) -> None:
        model = record.served.name if record.served else ""
        version = record.served.version if record.served else ""
        if record.protocol is not None:
            self._metrics.count_request(model, version, record.protocol, status)
        if self._access_log:
            write = log.debug if scope["path"] in _QUIET else log.info
            write(
                "request",
                method=scope["method"],
                path=scope["path"][:256],
                model=model,
                version=version,
                code=status,
                milliseconds=round(seconds * 1000, 3),
                request_id=record.request_id,
            )
