"""What a request may cost: bytes, instances, pixels, time; and that whatever becomes of it, all of it is given back."""

import asyncio
import base64
import io
import struct
import threading
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from softrisk_service.codecs import body as body_module
from softrisk_service.codecs import v1_instances
from softrisk_service.codecs.body import BodyBudget
from softrisk_service.codecs.media import file_input
from softrisk_service.schemas import Problem

PREDICT = "/v1/models/tiny:predict"
INSTANCE = [[[0.5] * 4] * 4]
JSON = "application/json"
NPY = "application/x-npy"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixel_data: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixel_data)) + chunk(b"IEND", b"")


def npy(rows: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((rows, 1, 4, 4), np.float32))
    return buffer.getvalue()


async def test_large_bodies_are_refused_announced_or_not(repository: Path, serve: Any) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1000
            yield b" " * 1000

    async with serve(repository, max_body_bytes=10_000) as running:
        announced = await running.client.post(PREDICT, content=b" " * 10_001)
        streamed = await running.client.post(PREDICT, content=endless(), headers={"content-length": "5"})
        for response in (announced, streamed):
            assert response.status_code == 413
            assert response.headers["connection"] == "close"
        assert sent <= 52_000
        exact = orjson.dumps({"instances": [INSTANCE]}).ljust(10_000)
        assert (await running.client.post(PREDICT, content=exact)).status_code == 200
        absurd = {"content-length": "9" * 5000}
        assert (await running.client.post(PREDICT, content=endless(), headers=absurd)).status_code == 413
    async with serve(repository, max_json_bytes=10_000) as running:
        assert (await running.client.post(PREDICT, content=b" " * 10_001)).status_code == 413
        array = npy(500)
        bulk = await running.client.post(PREDICT, content=array, headers={"content-type": NPY})
        assert bulk.status_code == 200


async def test_what_a_body_unpacks_to_counts(service: Any) -> None:
    packing = zlib.compressobj(wbits=31)
    block = packing.compress(bytes(2**24)) + packing.flush(zlib.Z_FULL_FLUSH)
    bomb = block + 60 * block[10:]  # a gigabyte in one megabyte; the first block begins with the head of the file
    for path in (PREDICT, "/v2/models/tiny/infer"):
        response = await service.client.post(path, content=bomb, headers={"content-encoding": "gzip"})
        assert response.status_code == 413
        assert "unpacks to more than" in response.json()["detail"]
    assert (await service.post(PREDICT, {"instances": [INSTANCE]})).status_code == 200


async def test_a_body_that_does_not_arrive_is_the_callers_fault(repository: Path, serve: Any) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b'{"inst'
        await asyncio.Event().wait()

    async with serve(repository, deadline_seconds=0.1) as running:
        response = await running.client.post(PREDICT, content=stalled())
        assert (response.status_code, response.headers["connection"]) == (408, "close")
        Problem.model_validate(response.json())
        labels = {"model": "tiny", "version": "2", "protocol": "v1", "code": "408"}
        assert running.value("softrisk_inference_requests_total", **labels) == 1


async def test_bodies_share_a_budget(repository: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()
    body = orjson.dumps({"instances": [INSTANCE]}).ljust(1500)

    async def halting() -> AsyncIterator[bytes]:
        yield body[:1000]
        arrived.set()
        await go_on.wait()
        yield body[1000:]

    async def unannounced() -> AsyncIterator[bytes]:
        yield body

    async def unannounced_and_stalled() -> AsyncIterator[bytes]:
        yield body
        await asyncio.Event().wait()

    monkeypatch.setattr(body_module, "_DISCARDING_SECONDS", 0.05)
    async with serve(repository, max_body_bytes=1500, max_bodies_bytes=2000) as running:
        first = asyncio.create_task(running.client.post(PREDICT, content=halting()))
        await arrived.wait()
        for content in (body, unannounced(), unannounced_and_stalled()):
            full = await running.client.post(PREDICT, content=content)
            assert (full.status_code, full.headers["retry-after"]) == (429, "1")
        go_on.set()
        assert (await first).status_code == 200
        # Whatever becomes of a request, its bytes are given back.
        for media in (JSON, NPY, "image/png", "text/plain"):
            for wrong in (b"[".ljust(1500), b"[".ljust(1501)):
                await running.client.post(PREDICT, content=wrong, headers={"content-type": media})
        assert (await running.client.post(PREDICT, content=body)).status_code == 200


def images_of(*sizes: tuple[int, int]) -> dict[str, Any]:
    def encoded(width: int, height: int) -> str:
        return base64.b64encode(png(width, height, (b"\0" * (width + 1)) * height)).decode()

    return {"instances": [{"b64": encoded(*size)} for size in sizes]}


async def test_the_images_of_a_request_share_a_pixel_budget(
    repository: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def counted(data: bytes, spec: Any) -> Any:
        decoded.append(len(data))
        return file_input(data, spec)

    monkeypatch.setattr(v1_instances, "file_input", counted)
    async with serve(repository, max_pixels=1000) as running:
        assert (await running.post(PREDICT, images_of((20, 20), (20, 30)))).status_code == 200
        assert len(decoded) == 2
        refused = await running.post(PREDICT, images_of((20, 20), (20, 31)))
        assert refused.status_code == 413
        assert "1020 pixels together" in refused.json()["detail"]
        # Each is at least as large as what it is resized to, 4×4.
        assert (await running.post(PREDICT, images_of(*[(1, 1)] * 63))).status_code == 413
        raw = base64.b64decode(images_of((40, 40))["instances"][0]["b64"])
        alone = await running.client.post(PREDICT, content=raw, headers={"content-type": "image/png"})
        assert alone.status_code == 413
        assert len(decoded) == 2


async def test_decoding_stops_when_nobody_waits_for_it(
    repository: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, ended, decoded = threading.Event(), threading.Event(), []
    give_back = BodyBudget.give_back

    def slowly(data: bytes, spec: Any) -> Any:
        decoded.append(len(data))
        assert gate.wait(10)
        return file_input(data, spec)

    def told(self: BodyBudget, size: int) -> None:
        give_back(self, size)
        ended.set()

    monkeypatch.setattr(v1_instances, "file_input", slowly)
    monkeypatch.setattr(BodyBudget, "give_back", told)
    async with serve(repository, deadline_seconds=0.2) as running:
        response = await running.post(PREDICT, images_of((8, 8), (8, 8), (8, 8)))
        assert response.status_code == 504
        gate.set()
        assert await asyncio.to_thread(ended.wait, 10)
        assert len(decoded) == 1
        assert (await running.post(PREDICT, images_of((8, 8)))).status_code == 200


async def test_json_before_binary_tensors_has_the_limit_of_json(repository: Path, serve: Any) -> None:
    array = np.zeros((1, 1, 4, 4), np.float32)
    tensor = {"name": "image", "shape": list(array.shape), "datatype": "FP32", "parameters": {"binary_data_size": 64}}
    head = orjson.dumps({"inputs": [tensor]}).ljust(2000)
    for sockets in (False, True):
        async with serve(repository, sockets=sockets, max_json_bytes=1999) as running:
            response = await running.client.post(
                "/v2/models/tiny/infer",
                content=head + array.tobytes(),
                headers={"inference-header-content-length": str(len(head))},
            )
            assert response.status_code == 413
            assert "more than the 1999 bytes of JSON" in response.json()["error"]
