"""The real server under load while its repository changes: no request is dropped, no answer is another model's."""

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import onnxruntime
import pytest
import tritonclient.http
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from softrisk_core.bundle import MODEL

Pixels = Callable[[int, int], NDArray[np.float32]]

ROWS = 16
VERSIONS = (1, 2, 3, 4)


class Shelf:
    """Bundles made beforehand, with the answers they must give; `put` lets one appear in the served repository."""

    def __init__(self, folder: Path, served: Path, images: NDArray[np.float32], make_bundle: Any) -> None:
        self._made = folder
        self._served = served
        self.images = images
        self.answers: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for name in ("tiny", "other"):
            for version in VERSIONS:
                bundle = make_bundle(folder, name, seed=version + len(name))
                session = onnxruntime.InferenceSession(bundle.model_path, providers=["CPUExecutionProvider"])
                labels, ranks = session.run(["label", "rank"], {"image": images})
                self.answers[name, str(version)] = list(zip(labels.tolist(), ranks.tolist(), strict=True))

    def put(self, name: str, version: int, *, broken: bool = False) -> None:
        home = self._served / name
        draft = home / ".draft"
        shutil.copytree(self._made / name / str(version), draft)
        if broken:
            (draft / MODEL).write_bytes(b"no graph")
        draft.rename(home / str(version))

    def remove(self, name: str, version: int) -> None:
        shutil.rmtree(self._served / name / str(version))

    def roll_back(self, name: str, version: int) -> None:
        (self._served / name / "default").write_text(f"{version}\n")

    def roll_on(self, name: str) -> None:
        (self._served / name / "default").unlink()


@pytest.fixture
def shelf(tmp_path: Path, make_bundle: Any, images: Pixels) -> Shelf:
    shelf = Shelf(tmp_path / "made", tmp_path / "models", images(ROWS, 5), make_bundle)
    for name in ("tiny", "other"):
        shelf.put(name, 1)
    return shelf


@dataclass
class Traffic:
    """Clients of both protocols that check every answer.

    Attributes:
        seen: Answers by the model, the version asked for ("" for the default) and the version that answered.
        refused: Status and detail of all others, by model.
    """

    client: httpx2.AsyncClient
    shelf: Shelf
    seen: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    refused: list[tuple[str, int, str]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, name: str, version: str, asked: str = "") -> None:
        """Wait for some more answers of a version."""
        enough = self.seen[name, asked, version] + 20
        async with self.changed:
            await self.changed.wait_for(lambda: self.seen[name, asked, version] >= enough)

    async def ask(self, number: int, name: str, asked: str) -> None:
        """Send requests for ever, V1 and V2 by turns, of one to three rows."""
        while True:
            number += 1
            rows = [(number * 5 + step) % ROWS for step in range(1 + number % 3)]
            path = f"/models/{name}/versions/{asked}" if asked else f"/models/{name}"
            images = self.shelf.images[rows]
            if number % 2:
                response = await self.client.post(f"/v1{path}:predict", json={"instances": images.tolist()})
            else:
                tensor = {"name": "image", "datatype": "FP32", "shape": images.shape, "data": images.ravel().tolist()}
                wanted = [{"name": "label"}, {"name": "rank"}]
                response = await self.client.post(f"/v2{path}/infer", json={"inputs": [tensor], "outputs": wanted})
            self.note(name, asked, rows, response)
            async with self.changed:
                self.changed.notify_all()

    def note(self, name: str, asked: str, rows: list[int], response: httpx2.Response) -> None:
        body = response.json()
        if response.status_code != 200:
            self.refused.append((name, response.status_code, body["detail"]))
            return
        version = body["model_version"]
        assert body["model_name"] == name
        assert asked in ("", version)
        expected = self.shelf.answers[name, version]
        if "predictions" in body:
            got = [(one["label"], one["risk"]["rank"]) for one in body["predictions"]]
        else:
            outputs = {output["name"]: output["data"] for output in body["outputs"]}
            got = list(zip(outputs["label"], outputs["rank"], strict=True))
        assert got == [expected[row] for row in rows], f"not the answer of {name} {version}"
        self.seen[name, asked, version] += 1


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def under_load(request: pytest.FixtureRequest, tmp_path: Path, running: Any, shelf: Shelf) -> Callable[..., Any]:
    """Runs `softrisk serve` with flags and ten clients, all of them at work; a wrong answer ends the test."""
    kinds = [("tiny", ""), ("tiny", ""), ("tiny", ""), ("tiny", "1"), ("other", "")]

    @asynccontextmanager
    async def serve(*flags: str) -> AsyncIterator[Traffic]:
        with running(tmp_path / "models", "--no-access-log", *flags, workers=request.param) as server:
            while sum(line["event"] == "loaded" for line in server.lines) < request.param:
                server.read_until("loaded")
            async with httpx2.AsyncClient(base_url=server.url, timeout=30) as client, asyncio.timeout(60):
                traffic = Traffic(client, shelf)
                async with asyncio.TaskGroup() as group:
                    asking = [group.create_task(traffic.ask(i, *kinds[i % len(kinds)])) for i in range(10)]
                    await traffic.until("tiny", "1")
                    yield traffic
                    for task in asking:
                        task.cancel()

    return serve


async def not_ready(client: httpx2.AsyncClient, name: str, version: int) -> None:
    """Wait until a version is reported."""
    while True:
        states = {(one["name"], one["version"]): one for one in (await client.get("/readyz")).json()["versions"]}
        if "damaged" in states.get((name, str(version)), {}).get("reason", ""):
            return


async def test_polling_drops_no_request(shelf: Shelf, under_load: Any) -> None:
    async with under_load("--poll-seconds", "0.05") as traffic:
        shelf.put("tiny", 2)
        await traffic.until("tiny", "2")
        shelf.roll_back("tiny", 1)
        await traffic.until("tiny", "1")
        shelf.put("tiny", 3)
        shelf.roll_on("tiny")
        await traffic.until("tiny", "3")
        shelf.put("tiny", 4, broken=True)
        shelf.put("other", 2, broken=True)
        await not_ready(traffic.client, "tiny", 4)
        await not_ready(traffic.client, "other", 2)
        await traffic.until("other", "1")
        shelf.remove("tiny", 3)
        await traffic.until("tiny", "2")
        shelf.remove("tiny", 4)
        shelf.put("tiny", 4)
        await traffic.until("tiny", "4")
        await traffic.until("tiny", "1", asked="1")
    assert traffic.refused == []
    assert traffic.seen["other", "", "2"] == 0


async def test_on_request_only_what_was_unloaded_is_refused(shelf: Shelf, under_load: Any) -> None:
    async with under_load("--repository-mode", "explicit") as traffic:
        with tritonclient.http.InferenceServerClient(traffic.client.base_url.netloc.decode()) as triton:
            for version in (2, 3):
                shelf.put("tiny", version)
            await asyncio.to_thread(triton.load_model, "tiny")
            await traffic.until("tiny", "3")
            await traffic.client.post("/v2/repository/models/tiny/load", json={"parameters": {"version": 2}})
            await traffic.until("tiny", "2")
            shelf.put("tiny", 4, broken=True)
            await asyncio.to_thread(triton.load_model, "tiny")  # its default, 2, is fine
            shelf.roll_on("tiny")
            with pytest.raises(InferenceServerException, match="version 4 cannot be served"):
                await asyncio.to_thread(triton.load_model, "tiny")
            await traffic.until("tiny", "3")
            assert not traffic.refused

            await asyncio.to_thread(triton.unload_model, "other")
            assert not await asyncio.to_thread(triton.is_model_ready, "other")
            index = await asyncio.to_thread(triton.get_model_repository_index)
            assert {(one["name"], one["version"]): one["state"] for one in index} == {
                ("other", "1"): "UNAVAILABLE",
                ("tiny", "1"): "READY",
                ("tiny", "2"): "READY",
                ("tiny", "3"): "READY",
                ("tiny", "4"): "UNAVAILABLE",
            }
            await asyncio.to_thread(triton.load_model, "other")
            assert await asyncio.to_thread(triton.is_model_ready, "other")
            await traffic.until("other", "1")
    assert {(name, status) for name, status, _ in traffic.refused} <= {("other", 503)}
    assert all("it was unloaded" in detail for _, _, detail in traffic.refused)
