"""The short way of inference requests: who takes it, and that nobody can tell.

That it answers as the ordinary way does is tested with the protocols, whose tests run over both.
"""

import asyncio
import contextlib
import gc
import gzip
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from softrisk_service import protocol
from softrisk_service.codecs import v2
from softrisk_service.exchange import Exchange
from softrisk_service.routes.inference import InferenceRoute
from softrisk_service.shortcut import ShortcutProtocol

Pixels = Callable[[int, int], NDArray[np.float32]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

INFER = "/v2/models/tiny/infer"
PREDICT = "/v1/models/tiny:predict"
JSON = {"content-type": "application/json"}


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the requests that took the ordinary way."""
    paths: list[str] = []
    answer = InferenceRoute.answer

    async def noted(self: InferenceRoute, request: Any, target: Any) -> Any:
        paths.append(request.url.path)
        return await answer(self, request, target)

    monkeypatch.setattr(InferenceRoute, "answer", noted)
    return paths


@pytest.fixture
async def wire(repository: Path, serve: Any) -> AsyncIterator[Any]:
    async with serve(repository, sockets=True) as running:
        yield running


@contextlib.asynccontextmanager
async def connected(running: Any) -> AsyncIterator[Streams]:
    url = running.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        yield reader, writer
    finally:
        writer.close()


def request(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: here", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    return int(first.split()[1]), headers, json.loads(body)


def infer(array: NDArray[np.float32], **members: Any) -> bytes:
    tensor = {"name": "image", "shape": array.shape, "datatype": "FP32", "data": array.ravel().tolist()}
    return json.dumps({**members, "inputs": [tensor], "outputs": [{"name": "label"}]}).encode()


async def test_plain_requests_take_the_short_way(wire: Any, images: Pixels, ordinary: list[str]) -> None:
    array = images(1, 3)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "image",
                    "shape": array.shape,
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": array.nbytes},
                }
            ]
        }
    ).encode()
    binary = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    answers = [
        await wire.client.post(PREDICT, json={"instances": array.tolist()}),
        await wire.client.post(INFER, content=infer(array), headers=JSON),
        await wire.client.post("/v2/models/tiny/versions/1/infer", content=infer(array), headers=JSON),
        await wire.client.post(INFER, content=head + array.tobytes(), headers=binary),
    ]
    assert [response.status_code for response in answers] == [200] * 4
    assert ordinary == []


@pytest.mark.parametrize(
    "special", ["chunks", "gzip", "expect", "old", "escapes", "file", "long", "unknown", "media", "wide"]
)
async def test_all_others_take_the_ordinary_way(wire: Any, images: Pixels, ordinary: list[str], special: str) -> None:
    array, client, code = images(1, 3), wire.client, 200
    body = infer(array)
    match special:
        case "chunks":

            async def pieces() -> AsyncIterator[bytes]:
                yield body[:50]
                yield body[50:]

            code = (await client.post(INFER, content=pieces(), headers=JSON)).status_code
        case "gzip":
            headers = JSON | {"content-encoding": "gzip"}
            code = (await client.post(INFER, content=gzip.compress(body), headers=headers)).status_code
        case "expect" | "old":
            async with connected(wire) as (reader, writer):
                header = "Expect: 100-continue" if special == "expect" else "X: y"
                writer.write(request(INFER, body, header, version="1.1" if special == "expect" else "1.0"))
                if special == "expect":
                    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
                code = (await answer(reader))[0]
        case "escapes":
            instances = json.dumps({"instances": array.tolist()}).replace("instances", "\\u0069nstances")
            code = (await client.post(PREDICT, content=instances, headers=JSON)).status_code
        case "file":
            response = await client.post(PREDICT, json={"instances": [{"b64": "AAAA"}]})
            assert response.status_code == 422
        case "long":
            response = await client.post(INFER, content=body + b" " * 200_000, headers=JSON)
            code = response.status_code
        case "unknown":
            assert (await client.post("/v2/models/tin%79/infer", content=body, headers=JSON)).status_code == 200
        case "media":
            response = await client.post(PREDICT, content=b"x", headers={"content-type": "image/png"})
            assert response.status_code == 422
        case "wide":  # an answer of many values
            code = (await client.post(INFER, content=infer(images(300, 1)), headers=JSON)).status_code
    assert code == 200
    assert len(ordinary) == 1


async def test_pipelined_requests_of_both_ways_are_answered_in_order(
    wire: Any, images: Pixels, ordinary: list[str]
) -> None:
    rows = images(20, 9)
    async with connected(wire) as (reader, writer):
        sent = b""
        for index in range(20):
            body = infer(rows[index : index + 1], id=str(index))
            sent += request(INFER, body, *(["Accept: a", "Accept: b"] if index % 3 else ["Connection: x"]))
        writer.write(sent)
        answers = [(await answer(reader))[2] for _ in range(20)]
    assert [found["id"] for found in answers] == [str(index) for index in range(20)]
    expected = (await wire.client.post(PREDICT, json={"instances": rows.tolist()})).json()["predictions"]
    assert [found["outputs"][0]["data"] for found in answers] == [[one["label"]] for one in expected]
    assert len(ordinary) > 0


async def test_a_request_may_come_in_pieces(wire: Any, images: Pixels, ordinary: list[str]) -> None:
    async with connected(wire) as (reader, writer):
        whole = request(INFER, infer(images(1, 1), id="piecemeal"), "X-Request-ID: mine")
        for start in range(0, len(whole), 40):
            writer.write(whole[start : start + 40])
            await writer.drain()
            await asyncio.sleep(0)
        status, headers, document = await answer(reader)
    assert (status, headers["x-request-id"], document["id"]) == (200, "mine", "piecemeal")
    assert {"date", "x-adversarial-risk"} <= set(headers)
    assert ordinary == []


async def test_a_connection_is_closed_when_its_caller_asks(wire: Any, images: Pixels) -> None:
    async with connected(wire) as (reader, writer):
        writer.write(request(INFER, infer(images(1, 1)), "Connection: close"))
        assert (await answer(reader))[0] == 200
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_body_that_does_not_arrive_is_refused(
    repository: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "TICK_SECONDS", 0.02)
    async with serve(repository, sockets=True, deadline_seconds=0.1) as running, connected(running) as streams:
        reader, writer = streams
        writer.write(request(INFER, b"x" * 100)[:-50])
        status, headers, document = await answer(reader)
        assert (status, headers["connection"]) == (408, "close")
        assert "0.1 s" in document["detail"]
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_an_idle_connection_is_closed(
    repository: Path, serve: Any, images: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "TICK_SECONDS", 0.02)
    async with serve(repository, sockets=True, keep_alive=0) as running, connected(running) as (reader, writer):
        writer.write(request(INFER, infer(images(1, 1))))
        assert (await answer(reader))[0] == 200
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_full_queue_is_told_at_once_and_the_connection_goes_on(
    repository: Path, serve: Any, images: Pixels
) -> None:
    async with serve(repository, sockets=True, queue_size=4, max_instances=4) as running:
        async with connected(running) as (reader, writer):
            batcher = running.engine.find("tiny").batcher
            batcher._rows += 4  # as if they waited
            writer.write(request(INFER, infer(images(1, 1))))
            status, headers, document = await answer(reader)
            assert (status, headers["retry-after"]) == (429, "1")
            assert "4 instances are waiting" in document["error"]
            batcher._rows -= 4
            writer.write(request(INFER, infer(images(1, 1))))
            assert (await answer(reader))[0] == 200
        labels = {"model": "tiny", "version": "2", "protocol": "v2"}
        assert running.value("softrisk_inference_requests_total", **labels, code="429") == 1


async def test_a_fault_of_ours_is_a_problem_with_an_id(
    wire: Any, images: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("secret")

    for place in ("decode", "encode"):
        async with connected(wire) as (reader, writer):
            with monkeypatch.context() as patched, capture_logs() as logs:
                patched.setattr(v2, place, broken)
                writer.write(request(INFER, infer(images(1, 1))))
                status, headers, document = await answer(reader)
            assert (status, document["request_id"]) == (500, headers["x-request-id"])
            assert "secret" not in json.dumps(document)
            (fault,) = [line for line in logs if line["event"] == "internal error"]
            assert isinstance(fault["exc_info"], ZeroDivisionError)
            writer.write(request(INFER, infer(images(1, 1))))
            assert (await answer(reader))[0] == 200
    assert wire.value("softrisk_internal_errors_total") == 2


async def test_a_caller_that_left_is_withdrawn(wire: Any, images: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = wire.engine.find("tiny").batcher
    queued, withdrawn = asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(batcher, "_start", queued.set)  # nothing runs
    free = batcher.free

    def freed(ticket: Any) -> None:
        free(ticket)
        withdrawn.set()

    monkeypatch.setattr(batcher, "free", freed)
    async with connected(wire) as (_, writer):
        writer.write(request(INFER, infer(images(1, 1))))
        await asyncio.wait_for(queued.wait(), 10)
        assert batcher.depth == 1
    await asyncio.wait_for(withdrawn.wait(), 10)
    assert batcher.depth == 0
    labels = {"model": "tiny", "version": "2", "protocol": "v2", "code": "499"}
    assert wire.value("softrisk_inference_requests_total", **labels) == 1


async def test_a_repeated_head_is_read_once_and_means_the_same(
    wire: Any, images: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[ShortcutProtocol] = []
    begin = ShortcutProtocol.on_message_begin

    def noted(self: ShortcutProtocol) -> None:
        parsed.append(self)
        begin(self)

    monkeypatch.setattr(ShortcutProtocol, "on_message_begin", noted)
    rows = images(12, 4)
    async with connected(wire) as (reader, writer):

        async def label(index: int, *headers: str, split: int = 0) -> int:
            data = request(INFER, infer(rows[index : index + 1], id=f"{index:02d}"), *headers)
            for piece in (data[: -split or None], data[len(data) - split :] if split else b""):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01 if split else 0)
            status, _, document = await answer(reader)
            assert (status, document["id"]) == (200, f"{index:02d}")
            return int(document["outputs"][0]["data"][0])

        found = [await label(index) for index in range(4)]
        lengths = {len(infer(rows[index : index + 1], id="00")) for index in range(4)}
        if len(lengths) == 1:
            assert len(parsed) == 1
        # Another head, a body in pieces, another request in between: parsed again, and right.
        found.append(await label(4, "X-Request-ID: other"))
        found.append(await label(5, split=30))
        writer.write(b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n")
        assert (await answer(reader))[2] == {"live": True}
        found += [await label(index) for index in range(6, 12)]
    expected = (await wire.client.post(PREDICT, json={"instances": rows.tolist()})).json()["predictions"]
    assert found == [one["label"] for one in expected]


async def test_empty_lines_between_requests_are_not_a_request(wire: Any, images: Pixels) -> None:
    async with connected(wire) as (reader, writer):
        writer.write(request(INFER, b""))
        assert (await answer(reader))[0] == 400
        for _ in range(3):
            writer.write(b"\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(request(INFER, infer(images(1, 1), id="after")))
        status, _, document = await answer(reader)
        assert (status, document["id"]) == (200, "after")


async def test_a_head_behind_the_end_of_a_long_body_is_not_too_long(wire: Any, images: Pixels) -> None:
    first = request(INFER, infer(images(1, 1), id="first") + b" " * 100_000)
    second = request(INFER, infer(images(1, 1), id="second"))
    async with connected(wire) as (reader, writer):
        writer.write(first + second[:30])
        assert (await answer(reader))[2]["id"] == "first"
        writer.write(second[30:])
        assert (await answer(reader))[2]["id"] == "second"


async def test_nothing_is_answered_behind_a_connection_that_closes(
    repository: Path, serve: Any, images: Pixels
) -> None:
    async with serve(repository, sockets=True, max_body_bytes=10_000, max_json_bytes=10_000) as running:
        async with connected(running) as (reader, writer):
            predict = json.dumps({"instances": [{"b64": "AAAA"}]}).encode()
            writer.write(
                request(INFER, b" " * 20_000) + request(PREDICT, predict) + request(INFER, infer(images(1, 1)))
            )
            status, headers, _ = await answer(reader)
            assert (status, headers["connection"]) == (413, "close")
            assert await asyncio.wait_for(reader.read(), 10) == b""
        assert running.value("softrisk_internal_errors_total") == 0
        labels = {"model": "tiny", "version": "2", "protocol": "v2", "code": "499"}
        assert not running.value("softrisk_inference_requests_total", **labels)


async def test_what_was_refused_by_its_head_is_not_kept(repository: Path, serve: Any, images: Pixels) -> None:
    async with serve(repository, sockets=True, queue_size=4, max_instances=4) as running:
        batcher = running.engine.find("tiny").batcher
        batcher._rows += 4
        gc.collect()
        gc.disable()
        try:
            async with connected(running) as (reader, writer):
                for _ in range(20):
                    writer.write(request(INFER, infer(images(1, 1))))
                    assert (await answer(reader))[0] == 429
                assert sum(type(found) is Exchange for found in gc.get_objects()) <= 1
        finally:
            gc.enable()
            batcher._rows -= 4
