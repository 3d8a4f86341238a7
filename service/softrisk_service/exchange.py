"""An inference request on the short way, from its head to its answer."""

import asyncio
import time
from http import HTTPStatus
from typing import Final, Protocol

from softrisk_service.access import CLIENT_CLOSED, Recorder
from softrisk_service.callers import Callers
from softrisk_service.catalogue import ServedVersion
from softrisk_service.errors import RequestError, SlowBodyError
from softrisk_service.heads import Head
from softrisk_service.inference import (
    HEADER_LENGTH,
    INLINE_BYTES,
    RISK_HEADER,
    Call,
    Inference,
    encode,
    is_quick,
    is_short,
)
from softrisk_service.problems import PROBLEM_TYPE, problem_document
from softrisk_service.tickets import Outcome, Ticket

LONGEST_BINARY: Final = 1024 * 1024
"""Longest body with binary tensors, which cost nothing to decode."""

_BINARY: Final = HEADER_LENGTH.lower().encode()
_RISK: Final = RISK_HEADER.lower().encode()
_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}


class Connection(Protocol):
    """What carries an exchange."""

    transport: asyncio.Transport

    def replay(self, body: bytes) -> None:
        """Let a request that is complete go the ordinary way."""

    def common_lines(self) -> bytes:
        """Headers of every answer."""

    def answered(self) -> None:
        """Go on."""


class Shortcut:
    """What the connections of a process share; the application's lifespan leaves it for them in its state.

    Args:
        inference: The steps.
        recorder: Who keeps count.
        callers: Who tells what a caller may see.
    """

    def __init__(self, inference: Inference, recorder: Recorder, callers: Callers) -> None:
        settings = inference.settings
        self.inference = inference
        self.recorder = recorder
        self.callers = callers
        self.allowance = inference.allowance()  # of everybody, since what costs more goes the ordinary way
        self.longest_json = min(INLINE_BYTES, settings.max_json_bytes, settings.max_body_bytes)
        self.longest_binary = min(LONGEST_BINARY, settings.max_body_bytes)


class _NoEvent:
    """For uvicorn, which wakes the task of a cycle by it; an exchange has none."""

    def set(self) -> None:
        """Do nothing."""


_NO_EVENT: Final = _NoEvent()


class Exchange(Ticket):
    """A request on the short way and its answer; stands where uvicorn has its cycle, and is its own record.

    Attributes:
        collects: Whether its body is not complete.
        response_complete: Whether it is answered.
        keep_alive: Whether the connection stays open after it; uvicorn clears it when it shuts down.
        disconnected: Set by uvicorn.
        message_event: Set by uvicorn.
    """

    message_event = _NO_EVENT
    method = "POST"
    # Set on the instance only where they differ, which is seldom.
    collects = True
    response_complete = False
    keep_alive = True
    queue = None
    is_open = False
    protocol: str | None = None
    served: ServedVersion | None = None
    _refused: RequestError | None = None
    _held = 0

    def __init__(self, connection: Connection, shortcut: Shortcut, head: Head) -> None:
        self._connection = connection
        self._shortcut = shortcut
        self._head = head
        self._chunks: list[bytes] = []
        self.start = time.perf_counter()
        self.request_id = shortcut.recorder.request_id(head.request_id)
        try:
            shortcut.inference.admit(head.target, self)
        except RequestError as error:  # told when the body is there, since few callers look for answers before
            self._refused = error.with_traceback(None)  # which would hold this exchange

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
                self._refused = error.with_traceback(None)
                self._release()
        if self._refused is None:
            self._chunks.append(chunk)

    def body(self) -> bytes:
        """All that was collected."""
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._release()
        return body

    def begin(self, body: bytes) -> None:
        """Decode the body and queue the request, or answer at once what is wrong with it."""
        self.collects = False
        head, served = self._head, self.served
        if self._refused is not None:
            self._refuse(self._refused)
            return
        try:
            assert served is not None  # else it was refused
            if not (head.is_quick or is_quick(head.target, head.envelope, body)):
                self._connection.replay(body)
                return
            arrived = time.perf_counter()
            call: Call = head.target.codec.decode(
                head.envelope, body, served, self._shortcut.allowance, head.target.disclosure
            )
            if not is_short(call.inputs, served):
                self._connection.replay(body)
                return
            served.metrics.stages["decode"].observe(time.perf_counter() - arrived)
            self._call = call
            served.batcher.submit(self, call.inputs, arrived + self._shortcut.inference.settings.deadline_seconds)
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
        headers = b"" if risk is None else b"%b: %b\r\n" % (_RISK, risk.encode())
        if answer.header_length is not None:
            headers += b"%b: %d\r\n" % (_BINARY, answer.header_length)
        self._answer(200, answer.media, headers, answer.content)

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
        connection = self._connection
        connection.transport.write(
            b"%b\r\ncontent-type: %b\r\n%bcontent-length: %d\r\nx-request-id: %b\r\n%b%b\r\n%b"
            % (
                _STATUS_LINES[status],
                media.encode(),
                headers,
                len(content),
                self.request_id.encode(),
                connection.common_lines(),
                b"" if self.keep_alive else b"connection: close\r\n",
                content,
            )
        )
        self.response_complete = True
        self._shortcut.recorder.end(self, status)
        if self.keep_alive:
            connection.answered()
        else:
            connection.transport.close()
