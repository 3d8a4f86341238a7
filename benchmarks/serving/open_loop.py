"""A load generator that keeps to its rate: `python -m benchmarks.serving.open_loop PLAN`, PLAN being JSON.

Requests are sent at the times of a Poisson process, each on an idle connection; answers are only counted and timed.
"""

import asyncio
import gc
import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

_SETTLING_SECONDS: Final = 1.0
"""Requests of the first second are not judged: the queue is filling."""
_PATIENCE_SECONDS: Final = 15.0
"""Given to the last answers."""


@dataclass(frozen=True)
class Plan:
    """What to send.

    Attributes:
        port: On 127.0.0.1.
        path: Of the URL.
        headers: Besides Host and Content-Length.
        body: Name of the file with the body.
        connections: Opened before the first request; one that is due while none is idle is not sent.
        rate: Requests a second, on average.
        seconds: For how long, including the first second that is not judged.
    """

    port: int
    path: str
    headers: dict[str, str]
    body: str
    connections: int
    rate: float
    seconds: float

    def message(self) -> bytes:
        """The whole request."""
        body = Path(self.body).read_bytes()
        headers = {"Host": f"127.0.0.1:{self.port}", "Content-Length": str(len(body)), **self.headers}
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class _Answers:
    """What came back: due time, sending time, time of the answer and status of each request."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, float, int]] = []
        self.complete = asyncio.Event()
        self._lost = 0
        self._expected: int | None = None

    def add(self, due: float, sent: float, status: int) -> None:
        self.rows.append((due, sent, time.perf_counter(), status))
        self._look()

    def lose(self) -> None:
        self._lost += 1
        self._look()

    def expect(self, count: int) -> None:
        self._expected = count
        self._look()

    def _look(self) -> None:
        if len(self.rows) + self._lost == self._expected:
            self.complete.set()


class _Connection(asyncio.Protocol):
    """Sends one request at a time and goes back among the idle ones when it is answered."""

    def __init__(self, idle: "list[_Connection]", answers: _Answers) -> None:
        self._idle = idle
        self._answers = answers
        self._received = b""
        self._missing = -1
        self._due: float | None = None
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._idle.append(self)

    def send(self, message: bytes, due: float) -> None:
        self._due, self._sent = due, time.perf_counter()
        self._transport.write(message)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._missing < 0:
            head, found, _ = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            self._missing = len(head) + 4 + length
        if len(self._received) >= self._missing and self._due is not None:
            status = int(self._received[9:12])
            self._answers.add(self._due, self._sent, status)
            self._received, self._missing, self._due = b"", -1, None
            self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._due is not None:
            self._answers.lose()
        elif self in self._idle:
            self._idle.remove(self)


async def offer(plan: Plan) -> dict[str, Any]:
    """Send what is planned, and sum up the answers."""
    message = plan.message()
    answers, idle = _Answers(), list[_Connection]()
    loop = asyncio.get_running_loop()
    transports = [
        (await loop.create_connection(lambda: _Connection(idle, answers), "127.0.0.1", plan.port))[0]
        for _ in range(plan.connections)
    ]
    gaps = np.random.default_rng(0).exponential(1 / plan.rate, round(plan.rate * plan.seconds))
    offsets = np.cumsum(gaps).tolist()
    sent = not_sent = 0
    start = time.perf_counter()
    while sent + not_sent < len(offsets):
        now = time.perf_counter()
        while sent + not_sent < len(offsets) and (due := start + offsets[sent + not_sent]) <= now:
            if idle:
                idle.pop().send(message, due)
                sent += 1
            else:
                not_sent += 1
        await asyncio.sleep(0.001)  # uvloop rounds shorter ones to nothing, and would keep a core busy
    answers.expect(sent)
    with suppress(TimeoutError):
        await asyncio.wait_for(answers.complete.wait(), _PATIENCE_SECONDS)
    for transport in transports:
        transport.close()
    return {
        "sent": sent,
        "not_sent": not_sent,
        "lost": sent - len(answers.rows),
        **summarise(np.array(answers.rows), start, start + offsets[-1]),
    }


def summarise(rows: "np.ndarray[Any, Any]", start: float, end: float) -> dict[str, Any]:
    """Rates and latencies after the first second.

    Args:
        rows: Due time, sending time, time of the answer and status, a row a request.
        start: When the first request was due.
        end: When the last one was.

    Returns:
        Accepted requests are timed from when they were due, so that a late generator does not flatter the server;
        rejected ones from when they were sent, since a late generator is not its doing: `lag_p99_ms` tells how late.
    """
    due, sent, answered, status = rows.T
    judged = due >= start + _SETTLING_SECONDS
    accepted, rejected, expired = (judged & (status == each) for each in (200, 429, 504))
    in_time = (status == 200) & (answered >= start + _SETTLING_SECONDS) & (answered <= end)
    return {
        "offered": float(judged.sum() / (end - start - _SETTLING_SECONDS)),
        "goodput": float(in_time.sum() / (end - start - _SETTLING_SECONDS)),
        "accepted": int(accepted.sum()),
        "rejected": int(rejected.sum()),
        "expired": int(expired.sum()),
        "other_answers": int((judged & ~accepted & ~rejected & ~expired).sum()),
        "accepted_p50_ms": _percentile(answered[accepted] - due[accepted], 50),
        "accepted_p99_ms": _percentile(answered[accepted] - due[accepted], 99),
        "rejected_p50_ms": _percentile(answered[rejected] - sent[rejected], 50),
        "rejected_p99_ms": _percentile(answered[rejected] - sent[rejected], 99),
        "rejected_max_ms": _percentile(answered[rejected] - sent[rejected], 100),
        "lag_p99_ms": _percentile(sent[judged] - due[judged], 99),
    }


def _percentile(seconds: "np.ndarray[Any, Any]", percent: float) -> float:
    return float(np.percentile(seconds, percent) * 1e3) if seconds.size else 0.0


if __name__ == "__main__":
    gc.disable()
    print(json.dumps(uvloop.run(offer(Plan(**json.loads(sys.argv[1]))))))
