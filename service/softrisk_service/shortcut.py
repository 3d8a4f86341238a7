"""The short way of an inference request: from the HTTP parser to the batcher and back, without ASGI.

A task, a scope, two queues and a router cost several times as much as a small model. So a request that is plain in
every respect (see `_plain`) is answered from the parser's callbacks, by the same steps and codecs as on the ordinary
way (`softrisk_service.inference`); all others, also those that turn out not to be plain once their body is there, go
the ordinary way. What a caller gets is the same on both, and the tests of the protocols run over both.
"""

import re
import time
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

from softrisk_service.access import CLIENT_CLOSED, Recorder
from softrisk_service.batcher import Outcome, Ticket
from softrisk_service.catalogue import ServedVersion
from softrisk_service.codecs import v1, v2
from softrisk_service.codecs.envelope import Envelope, read_envelope
from softrisk_service.errors import RequestError, SlowBodyError
from softrisk_service.inference import (
    HEADER_LENGTH,
    INLINE_BYTES,
    RISK_HEADER,
    Call,
    Inference,
    Target,
    decode,
    encode,
    is_quick,
    is_short,
)
from softrisk_service.problems import PROBLEM_TYPE, problem_document
from softrisk_service.protocol import GuardedProtocol

_V1: Final = re.compile(rb"/v1/models/([A-Za-z0-9._-]+)(?:/versions/([0-9]+))?:predict")
_V2: Final = re.compile(rb"/v2/models/([A-Za-z0-9._-]+)(?:/versions/([0-9]+))?/infer")

_LENGTH: Final = b"content-length"
_TYPE: Final = b"content-type"
_BINARY: Final = HEADER_LENGTH.lower().encode()
_REQUEST_ID: Final = b"x-request-id"
_READ: Final = frozenset((_LENGTH, _TYPE, _BINARY, _REQUEST_ID))
# These ask for something beyond a body of known length, read at once and answered at once.
_NOT_PLAIN: Final = frozenset((b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"))

_LONGEST_BINARY: Final = 1024 * 1024

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}


class Shortcut:
    """What the connections of a process share; the application's lifespan leaves it for them in its state.

    Args:
        inference: The steps.
        recorder: Who keeps count.
    """

    def __init__(self, inference: Inference, recorder: Recorder) -> None:
        settings = inference.settings
        self.inference = inference
        self.recorder = recorder
        self.allowance = inference.allowance()  # of everybody, since what costs more goes the ordinary way
        self.longest_json = min(INLINE_BYTES, settings.max_json_bytes, settings.max_body_bytes)
        self.longest_binary = min(_LONGEST_BINARY, settings.max_body_bytes)


@lru_cache(maxsize=1024)
def _target(url: bytes) -> Target | None:
    for pattern, codec in ((_V2, v2), (_V1, v1)):
        if match := pattern.fullmatch(url):
            name, version = match.groups()
            return Target(codec, name.decode(), None if version is None else version.decode())
    return None


class ShortcutProtocol(GuardedProtocol):
    """One connection of a client."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shortcut: Shortcut | None = app_state.get("shortcut")
        self._exchange: _Exchange | None = None
        self._common: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")
        self._last: _Head | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the request in flight."""
        if self._exchange is not None:
            self._exchange.abandon()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin to read a head; what ASGI needs of it waits until it is needed."""
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
            self._exchange = exchange
            self.cycle = exchange  # type: ignore[assignment] # has all that uvicorn asks of a cycle

    def on_body(self, body: bytes) -> None:
        """Collect."""
        exchange = self._exchange
        if exchange is not None and exchange.collects:
            exchange.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin to answer."""
        exchange = self._exchange
        if exchange is not None and exchange.collects:
            exchange.begin()
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

    def _plain(self) -> "_Exchange | None":
        """The exchange for a request that can go the short way, else None.

        Nothing before it on the connection may still be read, answered, or waiting for the client to take it.
        """
        shortcut = self._shortcut
        before: Any = self.cycle  # None for the first request
        if (
            shortcut is None
            or (before is not None and not before.response_complete)
            or self.flow.write_paused
            or self.parser.get_method() != b"POST"
            or self.parser.get_http_version() != "1.1"
        ):
            return None
        head = self._last
        # Most clients send the same head again and again.
        if head is None or head.headers != self.headers or head.url != self.url:
            self._last = head = _read_head(self.url, self.headers, shortcut)
        return None if head is None else _Exchange(self, shortcut, head)


@dataclass(frozen=True, slots=True)
class _Head:
    """What a plain head says.

    Attributes:
        url: As it came.
        headers: As they came.
        target: What the path asks for.
        envelope: How the body is to be read.
        length: Of the body.
        request_id: The caller's.
    """

    url: bytes
    headers: list[tuple[bytes, bytes]]
    target: Target
    envelope: Envelope
    length: int
    request_id: str | None


def _read_head(url: bytes, headers: list[tuple[bytes, bytes]], shortcut: Shortcut) -> _Head | None:
    """Read a head: the path of a model, a body of known and moderate length, and nothing special asked for."""
    target = _target(url)
    if target is None:
        return None
    read: dict[bytes, str] = {}
    for name, value in headers:
        if name in _READ:
            if name in read:
                return None
            read[name] = value.decode("latin-1")
        elif name in _NOT_PLAIN or (name == b"connection" and value.lower() != b"keep-alive"):
            return None
    length = read.get(_LENGTH, "")
    longest = shortcut.longest_binary if _BINARY in read else shortcut.longest_json
    if not length.isdecimal() or int(length) > longest:
        return None
    try:
        envelope = read_envelope(read.get(_TYPE), None, read.get(_BINARY))
    except RequestError:
        return None
    return _Head(url, headers, target, envelope, int(length), read.get(_REQUEST_ID))


class _NoEvent:
    """For uvicorn, which wakes the task of a cycle by it; an exchange has none."""

    def set(self) -> None:
        """Do nothing."""


_NO_EVENT: Final = _NoEvent()


class _Exchange(Ticket):
    """A request on the short way and its answer; stands where uvicorn has its cycle, and is its own record.

    Attributes:
        collects: Whether its body is not complete.
        response_complete: Whether it is answered.
        keep_alive: Whether the connection stays open after it; uvicorn clears it when it shuts down.
        disconnected: Set by uvicorn.
        message_event: Set by uvicorn.
    """

    __slots__ = (
        "_call", "_chunks", "_head", "_held", "_protocol", "_refused", "_shortcut", "collects", "disconnected",
        "keep_alive", "protocol", "request_id", "response_complete", "served", "start",
    )  # fmt: skip

    message_event = _NO_EVENT
    method = "POST"

    def __init__(self, protocol: ShortcutProtocol, shortcut: Shortcut, head: _Head) -> None:
        self._protocol = protocol
        self._shortcut = shortcut
        self._head = head
        self._chunks: list[bytes] = []
        self._held = 0
        self._refused: RequestError | None = None
        self.collects = True
        self.response_complete = False
        self.keep_alive = True
        self.start = time.perf_counter()
        self.request_id = shortcut.recorder.request_id(head.request_id)
        self.protocol: str | None = None
        self.served: ServedVersion | None = None
        self.queue = None
        self.is_open = False
        try:
            shortcut.inference.admit(head.target, self)
        except RequestError as error:  # told when the body is there, since few callers look for answers before
            self._refused = error

    @property
    def path(self) -> str:
        """For the record."""
        return self._head.url.decode()

    def add(self, chunk: bytes) -> None:
        """Collect a piece of the body."""
        if len(chunk) < self._head.length and self._refused is None:
            try:
                self._shortcut.inference.bodies.take(len(chunk))
                self._held += len(chunk)
            except RequestError as error:
                self._refused = error
                self._chunks.clear()
        if self._refused is None:
            self._chunks.append(chunk)

    def begin(self) -> None:
        """Decode the body and queue the request, or answer at once what is wrong with it."""
        self.collects = False
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._release()
        inference, head = self._shortcut.inference, self._head
        try:
            if self._refused is not None:
                raise self._refused
            assert self.served is not None  # else it was refused
            served = self.served
            if not is_quick(head.target, head.envelope, body):
                self._protocol.replay(body)
                return
            call = decode(head.target, head.envelope, body, served, self._shortcut.allowance)
            if not is_short(call.inputs, served):
                self._protocol.replay(body)
                return
            self._call: Call = call
            served.batcher.submit(self, call.inputs, inference.deadline())
        except Exception as error:
            self._refuse(error)

    def deliver(self, outcome: Outcome) -> None:
        """Answer."""
        if isinstance(outcome, Exception):
            self._refuse(outcome)
            return
        assert self.served is not None
        try:
            answer, risk = encode(self._head.target, self._call, outcome, self.served)
        except Exception as error:
            self._refuse(error)
            return
        binary = b"" if answer.header_length is None else b"%b: %d\r\n" % (_BINARY, answer.header_length)
        self._answer(200, answer.media, b"%b: %b\r\n%b" % (_RISK, risk.encode(), binary), answer.content)

    def abandon(self) -> None:
        """The connection is gone."""
        if not self.response_complete:
            self.response_complete = True
            self._release()
            self.withdraw()
            self._shortcut.recorder.end(self, CLIENT_CLOSED)

    def check_time(self) -> None:
        """Refuse a body that takes too long; from there on the batcher watches the time."""
        seconds = self._shortcut.inference.settings.deadline_seconds
        if self.collects and time.perf_counter() - self.start > seconds:
            self.collects = False
            self._release()
            self._refuse(SlowBodyError(f"the body was not there within {seconds:g} s of the head"))

    def _release(self) -> None:
        self._chunks = []
        if self._held:
            self._shortcut.inference.bodies.give_back(self._held)
            self._held = 0

    def _refuse(self, error: Exception) -> None:
        headers = b""
        if isinstance(error, RequestError):
            status, detail = error.status, str(error)
            for name, value in error.headers.items():
                if (name, value) == ("connection", "close"):
                    self.keep_alive = False
                else:
                    headers += f"{name}: {value}\r\n".encode()
        else:
            status, detail = 500, self._shortcut.recorder.fault(self, error)
        self._answer(status, PROBLEM_TYPE, headers, problem_document(self.request_id, status, detail))

    def _answer(self, status: int, media: str, headers: bytes, content: bytes) -> None:
        protocol = self._protocol
        protocol.transport.write(
            b"%b\r\ncontent-type: %b\r\n%bcontent-length: %d\r\nx-request-id: %b\r\n%b%b\r\n%b"
            % (
                _STATUS_LINES[status],
                media.encode(),
                headers,
                len(content),
                self.request_id.encode(),
                protocol.common_lines(),
                b"" if self.keep_alive else b"connection: close\r\n",
                content,
            )
        )
        self.response_complete = True
        self._shortcut.recorder.end(self, status)
        if self.keep_alive:
            protocol.answered()
        else:
            protocol.transport.close()


_RISK: Final = RISK_HEADER.encode()
