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
from weakref import WeakSet

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

MAX_HEAD_BYTES: Final = 64 * 1024
"""Longest request line with headers; longer heads are answered 431. Data come in chunks, so a bit more may pass."""

MAX_PIPELINED: Final = 128
"""Most requests of a connection that wait for an earlier one's answer; beyond it the connection is cut."""

HEAD_SECONDS: Final = 30.0
"""Longest time for a head to arrive; then the connection is closed."""


TICK_SECONDS: Final = 1.0
"""How often the connections are looked at; instead of a timer for each request."""

_watched: WeakSet[ServerState] = WeakSet()


def _watch(state: ServerState, loop: asyncio.AbstractEventLoop) -> None:
    """Look at all connections now and then, as long as there are any."""
    if state.connections:
        loop.call_later(TICK_SECONDS, _watch, state, loop)  # first, whatever happens below
    else:
        _watched.discard(state)
    now = loop.time()
    for connection in list(state.connections):
        if isinstance(connection, GuardedProtocol):
            connection.check_time(now)


class GuardedProtocol(HttpToolsProtocol):
    """One connection of a client.

    Attributes:
        idle_since: When the last answer was written, if uvicorn's own timer does not watch for the next request.
        ended: Whether a request ended in the data that came last.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.idle_since: float | None = None
        self.ended = False
        self._head_bytes = 0
        self._head_since: float | None = None
        self._body_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn does
        """Wait for the first head."""
        super().connection_made(transport)
        self.expect_head()
        if self.server_state not in _watched:
            _watched.add(self.server_state)
            self.loop.call_later(TICK_SECONDS, _watch, self.server_state, self.loop)

    def check_time(self, now: float) -> None:
        """Close the connection if it takes too long.

        Args:
            now: On the clock of the event loop.
        """
        cycle: Any = self.cycle  # None before the first request
        if (
            (self._head_since is not None and now - self._head_since > HEAD_SECONDS)
            or (self.idle_since is not None and now - self.idle_since > self.timeout_keep_alive)
            # Answered before its body was there, and the rest of it never comes.
            or (
                self._body_since is not None
                and now - self._body_since > HEAD_SECONDS
                and (cycle is None or cycle.response_complete)
            )
        ):
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse, and count what belongs to a head."""
        self.ended = False
        super().data_received(data)
        # Of data that hold the end of another request, too, it is not known how many belong to the head.
        if self._head_since is not None and not self.ended and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"the head of the request is longer than {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """Start to count a head."""
        super().on_message_begin()
        self.expect_head()

    def on_headers_complete(self) -> None:
        """Hand the request over, or cut the connection if it has too many waiting."""
        self.head_is_complete()
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

    def on_message_complete(self) -> None:
        """Note where a request ends."""
        self.request_ended()
        super().on_message_complete()

    def request_ended(self) -> None:
        """Watch for no more of its body."""
        self.ended = True
        self._body_since = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; uvicorn calls this, and would answer with plain text."""
        if not self.transport.is_closing():
            self._refuse(400, msg)

    def _has_body(self) -> bool:
        headers = dict(self.headers)
        return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

    def expect_head(self) -> None:
        """Watch for a head."""
        self._head_bytes = 0
        self.idle_since = None
        if self._head_since is None:
            self._head_since = self.loop.time()

    def head_is_complete(self) -> None:
        """Watch for no head any more, but for a body."""
        self._head_since = None
        self._body_since = self.loop.time()

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
