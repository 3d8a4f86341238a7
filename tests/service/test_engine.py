"""Which versions answer: broken ones are reported, and never replace a good one."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from softrisk_core.bundle import MANIFEST, MODEL
from softrisk_core.repository import Repository
from softrisk_service.errors import ConfigurationError
from softrisk_service.listing import check_repository
from softrisk_service.schemas import Readiness
from softrisk_service.settings import Settings

Pixels = Callable[[int, int], NDArray[np.float32]]

PREDICT = "/v1/models/tiny:predict"


def logged_reasons(logs: Any) -> dict[tuple[str, int], str]:
    """Why versions are not ready, as the operator reads it."""
    return {(line["model"], line["version"]): line["reason"] for line in logs if line["event"] == "version not ready"}


async def test_the_highest_ready_version_answers_and_the_broken_one_says_why_without_paths(
    tmp_path: Path, make_bundle: Any, serve: Any, images: Pixels
) -> None:
    make_bundle(tmp_path)
    broken = make_bundle(tmp_path)
    broken.model_path.write_bytes(broken.model_path.read_bytes()[:-1])
    with capture_logs() as logs:
        async with serve(tmp_path):
            pass
    assert f"{broken.model_path} is truncated" in logged_reasons(logs)["tiny", 2]
    async with serve(tmp_path) as service:
        answer = (await service.post(PREDICT, {"instances": images(1, 1).tolist()})).json()
        assert answer["model_version"] == "1"
        refused = await service.post("/v1/models/tiny/versions/2:predict", {"instances": images(1, 1).tolist()})
        assert refused.status_code == 503
        assert "damaged" in refused.json()["detail"]
        ready = await service.client.get("/readyz")
        assert ready.status_code == 200
        Readiness.model_validate(ready.json())
        states = {state["version"]: state for state in ready.json()["versions"]}
        assert "reason" not in states["1"]
        assert "damaged" in states["2"]["reason"]
        metadata = (await service.client.get("/v2/models/tiny")).json()
        assert metadata["versions"] == ["1"]
        assert "damaged" in metadata["parameters"]["not_ready_2"]
        for answer in (refused, ready, await service.client.get("/v2/models/tiny")):
            assert str(tmp_path) not in answer.text
        assert service.value("softrisk_model_ready", model="tiny", version="1") == 1
        assert service.value("softrisk_model_ready", model="tiny", version="2") == 0
        assert service.value("softrisk_ready") == 1


def off_by_one(outputs: dict[str, NDArray[Any]]) -> None:
    outputs["rank"] = outputs["rank"] + 1


def far_off(outputs: dict[str, NDArray[Any]]) -> None:
    outputs["energy"] = outputs["energy"] + np.float32(0.1)


def near(outputs: dict[str, NDArray[Any]]) -> None:
    outputs["energy"] = outputs["energy"] + np.float32(1e-5)


def another_label(outputs: dict[str, NDArray[Any]]) -> None:
    outputs["label"] = (outputs["label"] + 1) % 4


def fewer_rows(outputs: dict[str, NDArray[Any]]) -> None:
    outputs["entropy"] = outputs["entropy"][:-1]


def no_answer(outputs: dict[str, NDArray[Any]]) -> None:
    del outputs["p_value"]


def nan(outputs: dict[str, NDArray[Any]]) -> None:
    outputs["logits"] = np.full_like(outputs["logits"], np.nan)


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (far_off, "energy differs by up to 0.1"),
        (off_by_one, "rank is not the one recorded"),
        (another_label, "label is not the one recorded"),
        (fewer_rows, "entropy has shape (64,), not (63,)"),
        (no_answer, "golden.npz lacks ['p_value']"),
        (nan, "logits differs"),
        (near, None),
    ],
)
async def test_a_version_must_repeat_its_golden_outputs(
    tmp_path: Path, make_bundle: Any, serve: Any, tamper: Any, reason: str | None
) -> None:
    make_bundle(tmp_path, tamper=tamper)
    with capture_logs() as logs:
        async with serve(tmp_path) as service:
            states = (await service.client.get("/readyz")).json()["versions"]
    assert states[0]["ready"] == (reason is None)
    assert reason is None or reason in logged_reasons(logs)["tiny", 1]


async def test_a_graph_must_compute_the_score_that_its_manifest_names(
    tmp_path: Path, make_bundle: Any, serve: Any
) -> None:
    make_bundle(tmp_path, score="max_logit:low")  # the graph negates the gap
    with capture_logs() as logs:
        async with serve(tmp_path) as service:
            assert not service.engine.ready
    assert "from what max_logit:low is for these logits" in logged_reasons(logs)["tiny", 1]


async def test_without_a_ready_model_the_service_wants_no_traffic(tmp_path: Path, make_bundle: Any, serve: Any) -> None:
    bundle = make_bundle(tmp_path)
    (bundle.folder / MANIFEST).write_text("{}")
    async with serve(tmp_path) as service:
        for path in ("/readyz", "/v2/health/ready", "/v1/models/tiny", "/v2/models/tiny", "/v2/models/tiny/ready"):
            response = await service.client.get(path)
            assert response.status_code == 503, path
            assert "retry-after" in response.headers
        assert (await service.client.get("/livez")).status_code == 200
        assert (await service.client.get("/v1/models")).json() == {"models": ["tiny"]}
        assert service.value("softrisk_ready") == 0


async def test_a_calibration_too_small_for_the_policy_is_not_served(
    tmp_path: Path, make_bundle: Any, serve: Any
) -> None:
    make_bundle(tmp_path, "small", n=199)
    make_bundle(tmp_path, "large", n=1999)
    with capture_logs() as logs:
        async with serve(tmp_path, alpha_review=0.001) as service:
            states = {state["name"]: state for state in (await service.client.get("/readyz")).json()["versions"]}
    assert "decision levels" in states["small"]["reason"]
    assert "it needs at least 999" in logged_reasons(logs)["small", 1]
    assert states["large"]["ready"]


async def test_a_renamed_bundle_is_not_served(tmp_path: Path, make_bundle: Any, serve: Any) -> None:
    bundle = make_bundle(tmp_path)
    bundle.folder.rename(bundle.folder.parent / "5")
    with capture_logs() as logs:
        async with serve(tmp_path) as service:
            assert not service.engine.ready
    assert "holds tiny version 1" in logged_reasons(logs)["tiny", 5]


async def test_a_graph_that_onnxruntime_refuses_is_not_served(tmp_path: Path, make_bundle: Any, serve: Any) -> None:
    from softrisk_core.bundle import file_entry, load_bundle

    bundle = make_bundle(tmp_path)
    bundle.model_path.write_bytes(b"this is no graph")
    files = bundle.manifest.files | {MODEL: file_entry(bundle.model_path)}
    manifest = bundle.manifest.model_copy(update={"files": files})
    (bundle.folder / MANIFEST).write_text(manifest.model_dump_json())
    load_bundle(bundle.folder)
    with capture_logs() as logs:
        async with serve(tmp_path) as service:
            assert "graph" in (await service.client.get("/readyz")).json()["versions"][0]["reason"]
    assert "onnxruntime cannot load" in logged_reasons(logs)["tiny", 1]


async def test_while_models_are_loading_requests_are_answered_503(
    repository: Path, serve: Any, images: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    from softrisk_service.runtime import Runtime

    gate = threading.Event()
    replay = Runtime._replay

    def slowly(self: Runtime, bundle: Any) -> None:
        assert gate.wait(10)
        replay(self, bundle)

    monkeypatch.setattr(Runtime, "_replay", slowly)
    body = {"instances": images(1, 1).tolist()}
    async with serve(repository, wait=False) as service:
        early = await service.post(PREDICT, body)
        ready = await service.client.get("/readyz")
        alive = await service.client.get("/livez")
        gate.set()
        assert [early.status_code, ready.status_code, alive.status_code] == [503, 503, 200]
        assert "being loaded" in early.json()["detail"]
        assert "loading" in ready.json()["detail"]
        await service.engine.loaded.wait()
        assert (await service.post(PREDICT, body)).status_code == 200


async def test_draining_turns_readiness_off_but_still_answers(service: Any, images: Pixels) -> None:
    service.engine.drain()
    response = await service.client.get("/readyz")
    assert response.status_code == 503
    assert "draining" in response.json()["detail"]
    assert (await service.client.get("/v2/health/ready")).status_code == 503
    assert service.value("softrisk_ready") == 0
    assert (await service.post(PREDICT, {"instances": images(1, 1).tolist()})).status_code == 200


async def test_after_closing_inference_is_answered_503(service: Any, images: Pixels) -> None:
    await service.engine.close()
    assert (await service.post(PREDICT, {"instances": images(1, 1).tolist()})).status_code == 503


def gated(service: Any, monkeypatch: pytest.MonkeyPatch, started: threading.Event, gate: threading.Event) -> list[int]:
    """Let runs of the model wait for a gate, in the thread where long ones run; returns their sizes, as they come."""
    batcher, sizes = service.engine.find("tiny").batcher, []
    run = batcher._runtime.run

    def slowly(inputs: Any) -> Any:
        sizes.append(len(inputs["image"]))
        started.set()
        assert gate.wait(10)
        return run(inputs)

    monkeypatch.setattr(batcher, "_inline_size", 0)
    monkeypatch.setattr(batcher._runtime, "run", slowly)
    return sizes


async def test_a_full_queue_and_a_missed_deadline(
    repository: Path, serve: Any, images: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, started, body = threading.Event(), threading.Event(), {"instances": images(1, 1).tolist()}
    async with serve(repository, queue_size=2, max_instances=2, deadline_seconds=0.3) as service:
        gated(service, monkeypatch, started, gate)
        running = asyncio.create_task(service.post(PREDICT, body))
        assert await asyncio.to_thread(started.wait, 10)
        answers = await asyncio.gather(running, *(service.post(PREDICT, body) for _ in range(3)))
        assert sorted(answer.status_code for answer in answers) == [429, 504, 504, 504]
        full = next(answer for answer in answers if answer.status_code == 429)
        assert full.headers["retry-after"] == "1"
        gate.set()
        assert (await service.post(PREDICT, body)).status_code == 200


async def test_a_caller_that_hangs_up_while_waiting_is_withdrawn(
    service: Any, images: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, started, body = threading.Event(), threading.Event(), {"instances": images(1, 1).tolist()}
    sizes = gated(service, monkeypatch, started, gate)
    first = asyncio.create_task(service.post(PREDICT, body))
    assert await asyncio.to_thread(started.wait, 10)
    messages: Iterator[dict[str, Any]] = iter(
        [{"type": "http.request", "body": json.dumps(body).encode()}, {"type": "http.disconnect"}]
    )
    scope = {"type": "http", "method": "POST", "path": PREDICT, "query_string": b"", "headers": []}

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: object) -> None:
        raise AssertionError(f"nobody is there to read {message}")

    await service.app(scope, receive, send)
    gate.set()
    assert (await first).status_code == 200
    assert (await service.post(PREDICT, body)).status_code == 200
    assert sizes == [1, 1]
    gone = {"model": "tiny", "version": "2", "protocol": "v1", "code": "499"}
    assert service.value("softrisk_inference_requests_total", **gone) == 1


def test_there_must_be_something_to_serve(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="no model repository"):
        check_repository(Settings(repository=tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match="holds no model"):
        check_repository(Settings(repository=tmp_path))
    check_repository(Settings(repository=repository))

    def unreadable(_: Repository) -> list[str]:
        raise PermissionError(13, "Permission denied", "/secret")

    monkeypatch.setattr(Repository, "models", unreadable)
    with pytest.raises(ConfigurationError, match="/secret cannot be read: Permission denied"):
        check_repository(Settings(repository=repository))
