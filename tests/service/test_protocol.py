"""Limits on single connections, against a real socket."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from softrisk_service import protocol
from softrisk_service.protocol import MAX_HEAD_BYTES, MAX_PIPELINED, GuardedProtocol

GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


class App:
    """Answers every request once it may, and counts them."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.first = asyncio.Event()
        self.begun = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun += 1
        self.first.set()
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def short_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(protocol, "TICK_SECONDS", 0.02)


@pytest.fixture
async def connection(app: App) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    server = await asyncio.get_running_loop().create_server(
        lambda: GuardedProtocol(config, ServerState(), {}), "127.0.0.1", 0
    )
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield reader, writer
        writer.close()


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def problem(reader: asyncio.StreamReader) -> dict[str, Any]:
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    document: dict[str, Any] = json.loads(body)
    assert head.startswith(f"HTTP/1.1 {document['status']} ".encode())
    assert document["error"] == document["detail"]
    return document


async def test_requests_are_answered_in_order_on_one_connection(connection: Connection) -> None:
    reader, writer = connection
    writer.write(GET * 100)
    for _ in range(100):
        await reader.readuntil(b"\r\n\r\nok")


@pytest.mark.parametrize(
    "junk", [b"BREW / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
async def test_what_is_not_http_is_a_problem_document(connection: Connection, junk: bytes) -> None:
    reader, writer = connection
    writer.write(junk)
    assert (await problem(reader))["status"] == 400


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nA: ", b"GET /"], ids=["header", "path"])
async def test_a_head_has_a_limit(connection: Connection, app: App, head: bytes) -> None:
    reader, writer = connection
    writer.write(head + b"b" * (MAX_HEAD_BYTES + 1))
    assert (await problem(reader))["status"] == 431
    assert app.begun == 0


async def test_many_small_headers_have_the_same_limit(connection: Connection) -> None:
    reader, writer = connection
    writer.write(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (MAX_HEAD_BYTES // 6 + 1))
    assert (await problem(reader))["status"] == 431


@pytest.mark.usefixtures("short_heads")
@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nHost:"])
async def test_a_head_that_does_not_arrive_ends_the_connection(connection: Connection, app: App, start: bytes) -> None:
    reader, writer = connection
    writer.write(start)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    assert app.begun == 0


async def test_a_connection_that_never_reads_is_cut(connection: Connection, app: App) -> None:
    reader, writer = connection
    app.may_answer.clear()
    writer.write(GET * (MAX_PIPELINED + 2))
    answers = b""
    with contextlib.suppress(ConnectionResetError):
        answers = await asyncio.wait_for(reader.read(), 10)
    assert answers == b""
    assert app.begun == 1
    app.may_answer.set()


async def test_a_full_pipeline_is_still_answered(connection: Connection, app: App) -> None:
    reader, writer = connection
    app.may_answer.clear()
    writer.write(GET * (MAX_PIPELINED + 1))
    await app.first.wait()
    app.may_answer.set()
    for _ in range(MAX_PIPELINED + 1):
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\nok"), 10)


UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"


@pytest.mark.parametrize("length", [b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_a_body_that_an_upgrade_would_lose_is_refused(connection: Connection, app: App, length: bytes) -> None:
    reader, writer = connection
    writer.write(b"POST / HTTP/1.1\r\nHost: here\r\n" + UPGRADE + length + b"\r\n")
    assert "without Upgrade" in (await problem(reader))["detail"]
    assert app.begun == 0


async def test_an_upgrade_without_a_body_is_ignored(connection: Connection) -> None:
    reader, writer = connection
    writer.write(GET[:-2] + UPGRADE + b"\r\n")
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\nok"), 10)


@pytest.mark.usefixtures("short_heads")
async def test_a_body_whose_answer_was_early_does_not_hold_the_connection(connection: Connection) -> None:
    reader, writer = connection
    writer.write(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\nok"), 10)
    writer.write(b"x")
    assert await asyncio.wait_for(reader.read(), 10) == b""
