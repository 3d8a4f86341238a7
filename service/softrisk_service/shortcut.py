"""The short way of an inference request: from the HTTP parser to the batcher and back, without ASGI.

A task, a scope, two queues and a router cost several times as much as a small model. So a request that is plain in
every respect (see `_plain`) is answered from the parser's callbacks, by the same steps and codecs as on the ordinary
way (`softrisk_service.inference`); all others, also those that turn out not to be plain once their body is there, go
the ordinary way. What a caller gets is the same on both, and the tests of the protocols run over both.
"""

from typing import Any

from softrisk_service.disclosure import Disclosure
from softrisk_service.exchange import Exchange, Shortcut
from softrisk_service.heads import Head, read_head
from softrisk_service.protocol import GuardedProtocol


class ShortcutProtocol(GuardedProtocol):
    """One connection of a client."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shortcut: Shortcut | None = app_state.get("shortcut")
        self._exchange: Exchange | None = None
        self._common: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")
        self._last: Head | None = None
        self._text = b""  # the head of the last request, if it took the short way and came in one piece with its body
        self._short = False
        self._between = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the request in flight."""
        if self._exchange is not None:
            self._exchange.abandon()
        super().connection_lost(exc)
        self._exchange = None
        self.cycle = None  # type: ignore[assignment] # a closed connection must not keep a retired version

    def data_received(self, data: bytes) -> None:
        """Parse; but a request whose head is, byte for byte, that of the one before needs no parsing.

        Most clients that keep a connection send the same head again and again, and the body along with it.
        """
        head, text = self._last, self._text
        between = self._between
        if between and text and head is not None and len(data) == len(text) + head.length and data.startswith(text):
            exchange = self._exchange_for(head)
            if exchange is not None:
                if self.timeout_keep_alive_task is not None:
                    self._unset_keepalive_if_required()
                self.idle_since = None
                exchange.begin(data[len(text) :])
                return
        self._short = False
        super().data_received(data)
        if between and self._between and self._short and self._last is not None:
            end = data.find(b"\r\n\r\n") + 4
            if len(data) == end + self._last.length:
                self._text = data[:end]

    def on_message_begin(self) -> None:
        """Begin to read a head; what ASGI needs of it waits until it is needed."""
        self._between = self._short = False
        self._text = b""
        self.url = b""
        self.headers = []
        self.expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Choose the way."""
        exchange = self._plain()
        if exchange is None:
            self._go_ordinary_way()
        else:
            self.head_is_complete()
            self._short = True

    def on_body(self, body: bytes) -> None:
        """Collect."""
        exchange = self._exchange
        if exchange is not None and exchange.collects:
            exchange.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin to answer."""
        self._between = True
        self.request_ended()
        exchange = self._exchange
        if exchange is not None and exchange.collects:
            exchange.begin(exchange.body())
        else:
            super().on_message_complete()

    def check_time(self, now: float) -> None:
        """Close what has been idle, or sending a head or a body, for too long."""
        super().check_time(now)
        if self._exchange is not None:
            self._exchange.check_time()

    def replay(self, body: bytes) -> None:
        """Let a request that is complete go the ordinary way."""
        self._exchange = None
        self.cycle = None  # type: ignore[assignment] # as before the first request
        self._go_ordinary_way()
        super().on_body(body)
        super().on_message_complete()

    def answered(self) -> None:
        """Go on with what the connection has at hand, as after any other answer."""
        self._exchange = None
        if self.pipeline:
            self.on_response_complete()
        else:
            self.cycle = None  # type: ignore[assignment] # an idle connection must not keep a retired version
            self.server_state.total_requests += 1
            self.idle_since = self.loop.time()

    def common_lines(self) -> bytes:
        """Uvicorn's headers of every answer; the date among them changes once a second."""
        headers = self.server_state.default_headers
        if self._common[0] is not headers:
            self._common = (headers, b"".join(b"%b: %b\r\n" % header for header in headers))
        return self._common[1]

    def _go_ordinary_way(self) -> None:
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)  # uvicorn's scope holds this list
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        super().on_headers_complete()

    def _plain(self) -> Exchange | None:
        """The exchange for a request that can go the short way, else None."""
        shortcut = self._shortcut
        if shortcut is None or self.parser.get_method() != b"POST" or self.parser.get_http_version() != "1.1":
            return None
        head = self._last
        if head is None or head.headers != self.headers or head.url != self.url:
            self._last = head = read_head(
                self.url, self.headers, shortcut.longest_json, shortcut.longest_binary, self._disclosure
            )
        return None if head is None else self._exchange_for(head)

    def _disclosure(self, authorization: str | None) -> Disclosure:
        """What the caller at the other end may see."""
        assert self._shortcut is not None  # or there would be no plain heads
        return self._shortcut.callers.disclosure(authorization, self.client[0] if self.client else None)

    def _exchange_for(self, head: Head) -> Exchange | None:
        """The exchange for a plain request, unless one before it is being answered, or its answer not taken."""
        before: Any = self.cycle  # None for the first request
        if (
            (before is not None and not before.response_complete)
            or self.flow.write_paused
            or self.transport.is_closing()
        ):
            return None
        assert self._shortcut is not None  # or there would be no plain heads
        exchange = Exchange(self, self._shortcut, head)
        self._exchange = exchange
        self.cycle = exchange  # type: ignore[assignment] # has all that uvicorn asks of a cycle
        return exchange
