"""What callers see: by their keys, by where they call from, and by nothing that a request says."""

import base64
import contextlib
import gzip
import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import uvicorn.protocols.http.httptools_impl
from numpy.typing import NDArray
from PIL import Image
from structlog.testing import capture_logs

from softrisk_service.callers import Callers
from softrisk_service.errors import UnauthorizedError
from softrisk_service.keys import Key, digest, new_token, write_keys
from softrisk_service.routes.inference import InferenceRoute
from softrisk_service.schemas import InferResponse, PredictResponse

Pixels = Callable[[int, int], NDArray[np.float32]]

PREDICT = "/v1/models/tiny:predict"
INFER = "/v2/models/tiny/infer"
METADATA = "/v2/models/tiny"
ELSEWHERE = ("203.0.113.9", 4711)
TOKENS = {level: new_token() for level in ("full", "coarse", "none")}
REVEALING = ({"alpha": 0.2}, {"guarantee": "confident"}, {"alpha": 0.2, "guarantee": "marginal"})


def bearer(level: str) -> dict[str, str]:
    return {"authorization": f"Bearer {TOKENS[level]}"}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    write_keys(path, tuple(Key(name=level, disclosure=level, sha256=digest(token)) for level, token in TOKENS.items()))  # type: ignore[arg-type] # levels by name
    return path


@pytest.fixture(params=["ordinary way", "shortcut"])
async def locked(request: pytest.FixtureRequest, repository: Path, serve: Any, key_file: Path) -> AsyncIterator[Any]:
    """A service that asks for keys."""
    async with serve(repository, sockets=request.param == "shortcut", keys=key_file) as running:
        yield running


@pytest.fixture(params=["ordinary way", "shortcut"])
async def from_elsewhere(
    request: pytest.FixtureRequest, repository: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[httpx2.AsyncClient, httpx2.AsyncClient]]:
    """Clients of a service without keys, on another machine and on this one."""
    sockets = request.param == "shortcut"
    if sockets:
        # As if the other end of every connection were there.
        monkeypatch.setattr(uvicorn.protocols.http.httptools_impl, "get_remote_addr", lambda _: ELSEWHERE)
    async with serve(repository, sockets=sockets) as running, contextlib.AsyncExitStack() as stack:

        async def client(address: tuple[str, int]) -> httpx2.AsyncClient:
            transport = httpx2.ASGITransport(running.app, client=address)
            return await stack.enter_async_context(httpx2.AsyncClient(transport=transport, base_url="http://service"))

        yield running.client if sockets else await client(ELSEWHERE), await client(("127.0.0.1", 4711))


def tensor(array: NDArray[np.float32]) -> dict[str, Any]:
    return {"name": "image", "shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist()}


def check_coarse(given: httpx2.Response, full: httpx2.Response) -> None:
    """A V1 answer shows what `coarse` says, and agrees with the full one."""
    PredictResponse.model_validate(given.json())
    assert "x-adversarial-risk" not in given.headers
    expected = [
        {
            "label": one["label"],
            "class_name": one["class_name"],
            "risk": {
                "decision": one["risk"]["decision"],
                "flagged": one["risk"]["flagged"],
                "decile": int(10 * (200 - one["risk"]["rank"]) / 200 + 1e-9),
            },
        }
        for one in full.json()["predictions"]
    ]
    assert given.json()["predictions"] == expected


async def test_v1_shows_each_key_its_level(locked: Any, images: Pixels) -> None:
    body = {"instances": images(40, 5).tolist()}
    full = await locked.post(PREDICT, body, **bearer("full"))
    assert full.json()["predictions"][0]["diagnostics"]
    assert "x-adversarial-risk" in full.headers
    check_coarse(await locked.post(PREDICT, body, **bearer("coarse")), full)
    least = await locked.post(PREDICT, body, **bearer("none"))
    assert least.json()["predictions"] == [
        {name: one[name] for name in ("label", "class_name")} for one in full.json()["predictions"]
    ]
    assert "x-adversarial-risk" not in least.headers


async def test_requests_that_are_alike_do_not_share_what_they_show(locked: Any, images: Pixels) -> None:
    # What one request has asked for is remembered for the next; the levels must not meet there.
    for _ in range(3):
        for level, members in (("full", 6), ("none", 2), ("coarse", 3)):
            predicted = await locked.post(PREDICT, {"instances": images(1, 5).tolist()}, **bearer(level))
            assert len(predicted.json()["predictions"][0]) == members
            inferred = await locked.post(INFER, {"inputs": [tensor(images(1, 5))]}, **bearer(level))
            assert len(inferred.json()["outputs"]) == {"full": 16, "coarse": 2, "none": 1}[level]


@pytest.mark.parametrize(("level", "visible"), [("coarse", ["label", "flagged"]), ("none", ["label"])])
async def test_v2_shows_each_key_its_outputs(locked: Any, images: Pixels, level: str, visible: list[str]) -> None:
    body = {"id": "x", "inputs": [tensor(images(40, 5))]}
    full = (await locked.post(INFER, body, **bearer("full"))).json()
    answer = await locked.post(INFER, body, **bearer(level))
    InferResponse.model_validate(answer.json())
    assert answer.json() == {
        "model_name": "tiny",
        "model_version": "2",
        "id": "x",
        "outputs": [one for name in visible for one in full["outputs"] if one["name"] == name],
    }
    assert "x-adversarial-risk" not in answer.headers
    raw = {"content-type": "application/octet-stream", "inference-header-content-length": "0"}
    packed = await locked.client.post(INFER, content=images(2, 5).tobytes(), headers=raw | bearer(level))
    head = json.loads(packed.content[: int(packed.headers["inference-header-content-length"])])
    assert [output["name"] for output in head["outputs"]] == visible
    metadata = (await locked.client.get(METADATA, headers=bearer(level))).json()
    assert [output["name"] for output in metadata["outputs"]] == visible
    assert not {"calibration_id", "n", "alpha"} & set(metadata["parameters"])


@pytest.mark.parametrize("level", ["coarse", "none"])
async def test_no_request_raises_its_level(locked: Any, images: Pixels, level: str) -> None:
    pixels = images(1, 5)
    outputs = ["probabilities", "logits", "rank", "p_value", "risk_score", "nonconformity", "entropy"]
    for name in outputs + (["flagged"] if level == "none" else []):
        body = {"inputs": [tensor(pixels)], "outputs": [{"name": "label"}, {"name": name}]}
        refused = await locked.post(INFER, body, **bearer(level))
        assert refused.status_code == 403
        assert refused.headers["content-type"] == "application/problem+json"
        assert repr(name) in refused.json()["error"]
    for parameters in REVEALING:
        bodies: list[tuple[str, Any]] = [
            (PREDICT, {"instances": pixels.tolist(), "parameters": parameters}),
            (INFER, {"inputs": [tensor(pixels)], "parameters": parameters}),
        ]
        for path, document in bodies:
            refused = await locked.post(path, document, **bearer(level))
            assert (refused.status_code, level in refused.json()["detail"]) == (403, True)
            assert (await locked.post(path, document, **bearer("full"))).status_code == 200
    for wanted, status in ((True, 403), (False, 200)):
        asked = {"instances": pixels.tolist(), "parameters": {"probabilities": wanted}}
        assert (await locked.post(PREDICT, asked, **bearer(level))).status_code == status


async def test_without_a_right_key_there_is_no_answer(locked: Any, images: Pixels) -> None:
    body = {"instances": images(1, 5).tolist()}
    wrong = [{}, {"authorization": f"Bearer {new_token()}"}, {"authorization": f"Basic {TOKENS['full']}"}]
    wrong += [{"authorization": "Bearer"}, {"authorization": TOKENS["full"]}, {"x-api-key": TOKENS["full"]}]
    with capture_logs() as logs:
        for headers in wrong:
            for answer in (
                await locked.post(PREDICT, body, **headers),
                await locked.post("/v1/models/none:predict", body, **headers),
                await locked.post(INFER, {"inputs": [tensor(images(1, 5))]}, **headers),
                *[await locked.client.get(path, headers=headers) for path in ("/v2", METADATA, "/v1/models")],
            ):
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["error"] == answer.json()["detail"]
                assert not any(token in answer.text for token in TOKENS.values())
    assert not any(token in str(logs) for token in TOKENS.values())
    # The same connection, still in order.
    assert (await locked.post(PREDICT, body, authorization=f"bearer {TOKENS['full']}")).status_code == 200


async def test_probes_metrics_and_documents_ask_for_no_key(locked: Any) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"):
        assert (await locked.client.get(path)).status_code == 200


async def test_requests_with_keys_still_take_the_short_way(
    repository: Path, serve: Any, key_file: Path, images: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ordinary(*_: Any) -> Any:
        raise AssertionError("not the short way")

    monkeypatch.setattr(InferenceRoute, "answer", ordinary)
    async with serve(repository, sockets=True, keys=key_file) as running:
        for level in ("coarse", "full", "coarse", "coarse"):
            answer = await running.post(INFER, {"inputs": [tensor(images(1, 5))]}, **bearer(level))
            assert answer.status_code == 200


async def test_images_and_packed_bodies_are_filtered_alike(locked: Any, images: Pixels) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(images(1, 5)[0, 0] * 255).astype(np.uint8)).save(buffer, "PNG")
    body = {"instances": [{"b64": base64.b64encode(buffer.getvalue()).decode()}]}
    full = await locked.post(PREDICT, body, **bearer("full"))
    check_coarse(await locked.post(PREDICT, body, **bearer("coarse")), full)
    packed = gzip.compress(json.dumps({"instances": images(2, 5).tolist()}).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    given = await locked.client.post(PREDICT, content=packed, headers=headers | bearer("coarse"))
    check_coarse(given, await locked.client.post(PREDICT, content=packed, headers=headers | bearer("full")))


async def test_without_keys_other_machines_get_coarse_answers(
    from_elsewhere: tuple[httpx2.AsyncClient, httpx2.AsyncClient], images: Pixels
) -> None:
    far, near = from_elsewhere
    body = {"instances": images(40, 5).tolist()}
    # Neither a key that nobody asked for nor a header of a proxy makes a caller a local one.
    claims = {"x-forwarded-for": "127.0.0.1", "forwarded": "for=127.0.0.1", "x-real-ip": "127.0.0.1"}
    for headers in ({}, claims, bearer("full")):
        given = await far.post(PREDICT, json=body, headers=headers)
        check_coarse(given, await near.post(PREDICT, json=body))
        inferred = await far.post(INFER, json={"inputs": [tensor(images(1, 5))]}, headers=headers)
        assert [output["name"] for output in inferred.json()["outputs"]] == ["label", "flagged"]
    assert "calibration_id" not in (await far.get(METADATA)).json()["parameters"]
    assert "calibration_id" in (await near.get(METADATA)).json()["parameters"]


@pytest.mark.parametrize(
    ("address", "disclosure"),
    [
        ("127.0.0.1", "full"),
        ("127.8.8.8", "full"),
        ("::1", "full"),
        ("::ffff:127.0.0.1", "full"),
        ("10.0.0.1", "coarse"),
        ("::ffff:10.0.0.1", "coarse"),
        ("fe80::1", "coarse"),
        ("localhost", "coarse"),
        ("", "coarse"),
        (None, "coarse"),
    ],
)
def test_loopback_is_told_from_the_address(address: str | None, disclosure: str) -> None:
    assert Callers(None).disclosure(None, address) == disclosure


def test_with_keys_the_address_does_not_help() -> None:
    callers = Callers((Key(name="a", disclosure="full", sha256=digest("token")),))
    with pytest.raises(UnauthorizedError):
        callers.disclosure(None, "127.0.0.1")
    assert callers.disclosure("Bearer token", "10.0.0.1") == "full"


def test_the_command_looks_at_no_header_of_a_proxy(
    repository: Path, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # uvicorn's, if it looked
    with running(repository) as server:
        metadata = httpx2.get(server.url + METADATA, headers={"x-forwarded-for": ELSEWHERE[0]}).json()
    assert "calibration_id" in metadata["parameters"]


async def test_models_are_loaded_and_unloaded_by_full_keys_only(
    tmp_path: Path, make_bundle: Any, serve: Any, key_file: Path
) -> None:
    make_bundle(tmp_path)
    paths = ("/v2/repository/index", "/v2/repository/models/tiny/load", "/v2/repository/models/tiny/unload")
    async with serve(tmp_path, repository_mode="explicit", keys=key_file) as service:
        for path in paths:
            assert (await service.client.post(path)).status_code == 401
            for level in ("coarse", "none"):
                refused = await service.client.post(path, headers=bearer(level))
                assert (refused.status_code, "full disclosure" in refused.json()["error"]) == (403, True)
        for path in paths:
            assert (await service.client.post(path, headers=bearer("full"))).status_code == 200
