"""uvicorn's HTTP/1.1 protocol with the limits that it lacks against single connections.

Without them a head may be of any size and take any time, and a connection that sends requests without reading the
answers fills the memory with parsed requests, gigabytes within seconds. Requests that cannot be parsed get the
same problem document as every other error.

The class relies on methods of uvicorn's class that are not documented as extension points; `tests/service/
test_protocol.py` notices when they change.
"""

import asyncio
from http import HTTPStatus
from typing import Any, Final

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 64 * 1024
"""Longest request line with headers; longer heads are answered 431. Data come in chunks, so a bit more may pass."""

MAX_PIPELINED: Final = 128
"""Most requests of a connection that wait for an earlier one's answer; beyond it the connection is cut."""

HEAD_SECONDS: Final = 30.0
"""Longest time for a head to arrive; then the connection is closed."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection of a client."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn does
        """Wait for the first head."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._head_is_complete()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and count what belongs to a head."""
        super().data_received(data)
        if self._head_timer is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"the head of the request is longer than {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """Start to count a head."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """Hand the request over, or cut the connection if it has too many waiting."""
        self._head_is_complete()
        if self.transport.is_closing():
            return
        # Errors, not only returns: the parser has more at hand, and has to stop.
        if len(self.pipeline) >= MAX_PIPELINED:
            self.transport.abort()
            raise ConnectionAbortedError(f"more than {MAX_PIPELINED} requests wait for their answers")
        if self.parser.should_upgrade() and self._has_body():
            self._refuse(
                400,
                "the request asks to upgrade the connection, with which its body is lost: send HTTP/1.1 without "
                "Upgrade (curl --http1.1, Java's HttpClient.Version.HTTP_1_1)",
            )
            raise ConnectionAbortedError("an upgrade with a body")
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; uvicorn calls this, and would answer with plain text."""
        if not self.transport.is_closing():
            self._refuse(400, msg)

    def _has_body(self) -> bool:
        headers = dict(self.headers)
        return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

    def _expect_head(self) -> None:
        self._head_bytes = 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _head_is_complete(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, detail: str) -> None:
        phrase = HTTPStatus(status).phrase
        body = orjson.dumps(
            {"type": "about:blank", "title": phrase, "status": status, "detail": detail, "error": detail}
        )
        head = (
            f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
