"""The model repository extension of the V2 protocol."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

INDEX = "/v2/repository/index"
LOAD = "/v2/repository/models/tiny/load"
UNLOAD = "/v2/repository/models/tiny/unload"


@pytest.fixture
async def service(tmp_path: Path, make_bundle: Any, serve: Any) -> AsyncIterator[Any]:
    """A repository of one's own, changed on request."""
    make_bundle(tmp_path)
    broken = make_bundle(tmp_path, seed=7)
    broken.model_path.write_bytes(b"")
    async with serve(tmp_path, repository_mode="explicit") as running:
        yield running


@pytest.mark.parametrize("mode", ["poll", "none"])
@pytest.mark.parametrize("path", [INDEX, LOAD, UNLOAD])
async def test_it_is_off_unless_the_operator_turned_it_on(repository: Path, serve: Any, mode: str, path: str) -> None:
    async with serve(repository, repository_mode=mode) as service:
        refused = await service.client.post(path)
        assert refused.status_code == 403
        assert "--repository-mode explicit" in refused.json()["error"]
        assert service.engine.find("tiny").version == "2"
        assert "model_repository" not in (await service.client.get("/v2")).json()["extensions"]


async def test_it_is_announced(service: Any) -> None:
    assert "model_repository" in (await service.client.get("/v2")).json()["extensions"]


async def test_the_index_lists_versions_with_their_states(service: Any) -> None:
    good = {"name": "tiny", "version": "1", "state": "READY", "reason": ""}
    for body in (b"", b"{}", b'{"ready": false}'):
        listed = (await service.client.post(INDEX, content=body)).json()
        assert listed[0] == good
        assert (listed[1]["version"], listed[1]["state"]) == ("2", "UNAVAILABLE")
        assert "damaged" in listed[1]["reason"]
    assert (await service.post(INDEX, {"ready": True})).json() == [good]


async def test_the_index_lists_what_nobody_has_asked_for_yet(service: Any, tmp_path: Path, make_bundle: Any) -> None:
    make_bundle(tmp_path, "another")
    make_bundle(tmp_path, seed=8)
    listed = (await service.post(INDEX, {})).json()
    assert [(one["name"], one["version"], one["state"]) for one in listed] == [
        ("another", "1", "UNAVAILABLE"),
        ("tiny", "1", "READY"),
        ("tiny", "2", "UNAVAILABLE"),
        ("tiny", "3", "UNAVAILABLE"),
    ]
    assert listed[3]["reason"] == "it is not loaded"


async def test_the_metadata_tell_where_and_in_what_a_model_runs(service: Any) -> None:
    parameters = (await service.client.get("/v2/models/tiny")).json()["parameters"]
    provider = service.engine.find("tiny").provider
    assert parameters["device"] == {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}[provider]
    assert parameters["precision"] == "fp32"


async def test_load_answers_whether_the_default_can_be_served(service: Any, tmp_path: Path, make_bundle: Any) -> None:
    refused = await service.post(LOAD, {})
    assert refused.status_code == 409
    assert "version 2 cannot be served" in refused.json()["error"]
    assert str(tmp_path) not in refused.text
    make_bundle(tmp_path, seed=8)
    assert (await service.post(LOAD, {})).status_code == 200
    assert (await service.client.get("/v2/models/tiny")).json()["parameters"]["default_version"] == "3"


async def test_a_version_is_made_the_default(service: Any, tmp_path: Path, make_bundle: Any) -> None:
    make_bundle(tmp_path, seed=8)
    for wanted, default in ((1, "1"), ("3", "3"), ("1", "1"), ("latest", "3")):
        assert (await service.post(LOAD, {"parameters": {"version": wanted}})).status_code == 200
        assert (await service.client.get("/v2/models/tiny")).json()["parameters"]["default_version"] == default
    assert (await service.post(LOAD, {"parameters": {"version": 2}})).status_code == 409
    assert (await service.post(LOAD, {"parameters": {"version": 4}})).status_code == 404


async def test_an_unloaded_model_is_not_ready(service: Any) -> None:
    assert (await service.post(UNLOAD, {"parameters": {"unload_dependents": True}})).status_code == 200
    for path in ("/v2/models/tiny", "/v2/models/tiny/ready", "/v2/models/tiny/versions/1/ready", "/v1/models/tiny"):
        refused = await service.client.get(path)
        assert refused.status_code == 503
        assert "it was unloaded" in refused.json()["error"]
    assert (await service.client.get("/readyz")).status_code == 503
    assert service.value("softrisk_ready") == 0
    await service.post(LOAD, {})
    assert (await service.client.get("/v2/models/tiny/ready")).status_code == 200
    assert service.value("softrisk_ready") == 1


@pytest.mark.parametrize("path", [LOAD, UNLOAD])
@pytest.mark.parametrize("name", ["nobody", "..", "%2e%2e", "a%2fb", "tiny%00"])
async def test_a_name_that_no_model_has_is_404(service: Any, path: str, name: str) -> None:
    assert (await service.client.post(path.replace("tiny", name))).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "named"),
    [
        (LOAD, b"{", 400, "not valid JSON"),
        (LOAD, b"[]", 422, "must be a JSON object"),
        (LOAD, b'{"parameters": []}', 422, "parameters"),
        (LOAD, b'{"parameters": {"config": "{}"}}', 422, "parameters.config"),
        (LOAD, b'{"parameters": {"file:1/model.onnx": "AA=="}}', 422, "file:1/model.onnx"),
        (LOAD, b'{"parameters": {"version": 0}}', 422, "parameters.version"),
        (LOAD, b'{"parameters": {"version": "newest"}}', 422, "parameters.version"),
        (LOAD, b'{"parameters": {"version": 1.5}}', 422, "parameters.version"),
        (UNLOAD, b'{"parameters": {"version": 1}}', 422, "parameters.version"),
        (INDEX, b'{"ready": 7}', 422, "ready"),
        (INDEX, b'{"name": "tiny"}', 422, "name"),
        (INDEX, b" " * 100_000, 413, "bytes"),
    ],
)
async def test_what_it_does_not_know_it_refuses(service: Any, path: str, body: bytes, status: int, named: str) -> None:
    refused = await service.client.post(path, content=body)
    assert refused.status_code == status
    assert named in refused.json()["error"]
    assert service.engine.find("tiny").version == "1"
