"""Every request is counted and logged, however it ends."""

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from softrisk_service.access import Recorder, RecordRequests
from softrisk_service.metrics import Metrics


@pytest.mark.parametrize(("error", "code"), [(ZeroDivisionError, 500), (asyncio.CancelledError, 503)])
@pytest.mark.parametrize("started", [True, False])
async def test_an_interrupted_answer_is_counted_and_logged(
    error: type[BaseException], code: int, started: bool
) -> None:
    registry = CollectorRegistry()
    sent: list[Any] = []

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["record"].protocol = "v1"
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nobody asks for the body")

    recorder = RecordRequests(broken, Recorder(Metrics(registry), access_log=True))
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": []}
    with capture_logs() as logs:
        if started:
            with pytest.raises(error):
                await recorder(scope, receive, send)
        else:
            await recorder(scope, receive, send)
    status = 200 if started and error is asyncio.CancelledError else code
    assert [line["code"] for line in logs if line["event"] == "request"] == [status]
    labels = {"model": "", "version": "", "protocol": "v1", "code": str(status)}
    assert registry.get_sample_value("softrisk_inference_requests_total", labels) == 1
    assert [message["status"] for message in sent if "status" in message] == [200 if started else code]
