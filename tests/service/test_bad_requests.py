"""Nothing that a client sends causes a 500, and every refusal says what was wrong."""

import asyncio
import base64
import io
import struct
import threading
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from structlog.testing import capture_logs

from softrisk_service.codecs import body as body_module
from softrisk_service.codecs import v1
from softrisk_service.codecs.body import BodyBudget
from softrisk_service.codecs.media import image_input
from softrisk_service.schemas import Problem

Pixels = Callable[[int, int], NDArray[np.float32]]

PREDICT = "/v1/models/tiny:predict"
INFER = "/v2/models/tiny/infer"
INSTANCE = [[[0.5] * 4] * 4]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixel_data: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixel_data)) + chunk(b"IEND", b"")


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.txt", "not an image")
    return buffer.getvalue()


def whole_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def with_value(value: str) -> bytes:
    return f'{{"instances": [[[[0.5,0.5,0.5,0.5],[0.5,{value},0.5,0.5],[0,0,0,0],[1,1,1,1]]]]}}'.encode()


JSON = "application/json"
NPY = "application/x-npy"
VALID_NPY = npy(np.zeros((1, 1, 4, 4), np.float32))

BAD: list[tuple[str, bytes, int, str]] = [
    # JSON that is none
    (JSON, b"", 400, "not valid JSON"),
    (JSON, b'{"instances": [', 400, "not valid JSON"),
    (JSON, b"\xff\xfe", 400, "not valid JSON"),
    (JSON, with_value("NaN"), 400, "not valid JSON"),
    (JSON, with_value("-Infinity"), 400, "not valid JSON"),
    (JSON, b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "not valid JSON"),
    # JSON of another structure
    (JSON, b"[]", 422, "must be a JSON object"),
    (JSON, b"{}", 422, '"instances"'),
    (JSON, b'{"instances": {}}', 422, '"instances"'),
    (JSON, b'{"instances": []}', 422, "at least one"),
    (JSON, b'{"instances": [1]}', 422, "expected a list of shape [1, 4, 4], got the number 1"),
    (JSON, b'{"instances": [null]}', 422, "got null"),
    (JSON, b'{"instances": ' + b"[" * 500 + b"]" * 500 + b"}", 422, "expected"),
    # values
    (JSON, with_value("[0.5]"), 422, "instances[0][0][1][1]: expected a number, got a list of 1"),
    (JSON, with_value("null"), 422, "instances[0][0][1][1]: expected a number, got null"),
    (JSON, with_value("true"), 422, "instances[0][0][1][1]: expected a number, got the boolean true"),
    (JSON, with_value('"0.5"'), 422, "instances[0][0][1][1]: expected a number, got the string '0.5'"),
    (JSON, with_value('{"b64": ""}'), 422, "instances[0][0][1][1]: expected a number, got an object"),
    (JSON, with_value("0.5,0.5"), 422, "instances[0][0][1]: expected 4 values (shape [4]), got 5"),
    (JSON, with_value("1.5"), 422, "values in [0, 1], got 1.5 at [0, 0, 1, 1]"),
    (JSON, with_value("-0.01"), 422, "values in [0, 1], got -0.01"),
    (JSON, with_value("1e39"), 422, "not finite in float32"),
    (JSON, with_value("1e999"), 422, "overflows"),
    (JSON, with_value("9" * 400), 422, "overflows"),
    (JSON, b'{"instances": [' + b",".join([b"[[[0]]]"] * 2) + b"]}", 422, "expected 4 values"),
    (JSON, b'{"instances": ["' + b"x" * 100_000 + b'"' + b",0" * 100_000 + b"]}", 413, "at most 1024"),
    # parameters
    (JSON, b'{"instances": [0], "parameters": 3}', 422, "parameters: expected an object"),
    (JSON, orjson.dumps({"instances": [INSTANCE], "parameters": {"alfa": 1}}), 422, "'alfa' is not known"),
    (JSON, orjson.dumps({"instances": [INSTANCE], "parameters": {"alpha": True}}), 422, "parameters.alpha"),
    (JSON, orjson.dumps({"instances": [INSTANCE], "parameters": {"alpha": 0}}), 422, "strictly between 0 and 1"),
    (JSON, orjson.dumps({"instances": [INSTANCE], "parameters": {"alpha": 0.004}}), 422, "at least 249"),
    (JSON, orjson.dumps({"instances": [INSTANCE], "parameters": {"alpha": 1e-310}}), 422, "parameters.alpha"),
    (JSON, orjson.dumps({"instances": [INSTANCE], "parameters": {"alpha": 5e-324}}), 422, "parameters.alpha"),
    (JSON, orjson.dumps({"instances": [INSTANCE], "parameters": {"guarantee": ["x"]}}), 422, "parameters.guarantee"),
    (JSON, orjson.dumps({"instances": [INSTANCE], "parameters": {"probabilities": 1}}), 422, "probabilities"),
    # encoded files
    (JSON, b'{"instances": [{"b64": 5}]}', 422, '{"b64": "…"}'),
    (JSON, b'{"instances": [{"b65": "AAAA"}]}', 422, '{"b64": "…"}'),
    (JSON, b'{"instances": [{"b64": "not base64!"}]}', 422, "not base64"),
    (JSON, b'{"instances": [{"\\u00624": "AAAA"}]}', 422, "instances[0]"),
    (JSON, b'{"instances": [{"b64": "AAAA"}]}', 422, "not a PNG or JPEG"),
    (
        JSON,
        orjson.dumps({"instances": [INSTANCE, {"b64": base64.b64encode(archive())}]}, default=bytes.decode),
        422,
        "[1]",
    ),
    ("image/png", b"", 422, "not a PNG or JPEG"),
    ("image/png", archive(), 422, "not a PNG or JPEG"),
    ("image/png", whole_png()[:-300], 422, "truncated or damaged"),
    ("image/png", png(50_000, 50_000, b"\0" * 10_000), 422, "more than the 25,000,000 that are accepted"),
    ("image/png", png(0, 4, b""), 422, "image"),
    ("image/jpeg", b"\xff\xd8\xff\xe0" + b"\0" * 50, 422, "image"),
    # arrays
    (NPY, b"", 400, "not a .npy file"),
    (NPY, archive(), 400, "not a .npy file"),
    (NPY, VALID_NPY.replace(b"(1, 1, 4, 4)", b"(1,,1, 4, 4)"), 400, "not a .npy file"),
    (NPY, VALID_NPY.replace(b"(1, 1, 4, 4)", b"(1 1, 4, 4) "), 400, "not a .npy file"),
    (NPY, VALID_NPY[:-1], 400, "announces 64 bytes of data, 63 came"),
    (NPY, VALID_NPY + b"\0", 400, "announces 64 bytes of data, 65 came"),
    (NPY, VALID_NPY.replace(b"(1, 1,", b"(9999999999, 1,"), 400, "announces 639999999936 bytes"),
    (NPY, npy(np.zeros((1, 4, 4), np.float32)), 422, "expected shape [-1, 1, 4, 4], got [1, 4, 4]"),
    (NPY, npy(np.zeros((0, 1, 4, 4), np.float32)), 422, "at least one"),
    (NPY, npy(np.zeros((2000, 1, 4, 4), np.float32)), 413, "at most 1024"),
    (NPY, npy(np.full((1, 1, 4, 4), np.nan)), 422, "not finite"),
    (NPY, npy(np.full((1, 1, 4, 4), 1e300)), 422, "not finite"),
    (NPY, npy(np.full((1, 1, 4, 4), True)), 422, "real numbers"),
    (NPY, npy(np.full((1, 1, 4, 4), "a")), 422, "real numbers"),
    (NPY, npy(np.full((1, 1, 4, 4), None)), 422, "real numbers"),
    (NPY, npy(np.zeros((1, 1, 4, 4), np.complex64)), 422, "real numbers"),
    # media types
    ("application/x-www-form-urlencoded", b"{}", 415, "'application/x-www-form-urlencoded' is not accepted"),
    ("application/x-www-form-urlencoded", b"{}", 415, "-H 'Content-Type: application/json'"),
    ("audio/wav", b"RIFF", 415, "accepted"),
    ("text/plain", b"{}", 415, "accepted"),
    ("", b"{}", 415, "accepted"),
]


@pytest.mark.parametrize(("media", "body", "status", "named"), BAD, ids=map(str, range(len(BAD))))
async def test_a_bad_body_is_refused_with_a_problem(
    service: Any, images: Pixels, media: str, body: bytes, status: int, named: str
) -> None:
    response = await service.client.post(PREDICT, content=body, headers={"content-type": media})
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    Problem.model_validate(problem)
    assert (response.status_code, problem["status"]) == (status, status)
    assert named in problem["detail"]
    assert problem["error"] == problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]
    assert len(problem["detail"]) < 400
    assert (await service.post(PREDICT, {"instances": images(1, 1).tolist()})).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/models/nobody:predict", 404),
        ("POST", "/v1/models/tiny/versions/3:predict", 404),
        ("POST", "/v1/models/tiny/versions/01:predict", 404),
        ("POST", f"/v1/models/tiny/versions/{'9' * 5000}:predict", 404),
        ("POST", "/v1/models/%00%ff%2e%2e:predict", 404),
        ("POST", "/v2/models/nobody/infer", 404),
        ("POST", "/v2/models/tiny/versions/x/infer", 404),
        ("GET", "/v1/models/nobody", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/nobody/ready", 404),
        ("GET", "/v2/models/tiny/versions/9/ready", 404),
        ("GET", "/nothing", 404),
        ("GET", "/livez/", 404),
        ("GET", "/v2/models/tiny/infer", 405),
        ("PUT", "/v1/models/tiny:predict", 405),
        ("DELETE", "/v2/models/tiny", 405),
    ],
)
async def test_unknown_places_and_methods(service: Any, method: str, path: str, status: int) -> None:
    response = await service.client.request(method, path, content=b"{}" if method == "POST" else None)
    assert response.status_code == status
    Problem.model_validate(response.json())


async def test_who_looks_around_is_shown_the_documentation(service: Any) -> None:
    detail = (await service.client.get("/")).json()["detail"]
    assert (await service.client.get(detail.split()[-1])).status_code == 200


async def test_compressed_bodies_are_refused(service: Any) -> None:
    response = await service.client.post(PREDICT, content=b"x", headers={"content-encoding": "gzip"})
    assert response.status_code == 415


async def test_a_body_without_media_type_is_json(service: Any) -> None:
    response = await service.client.post(PREDICT, content=orjson.dumps({"instances": [INSTANCE]}))
    assert response.status_code == 200


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
        array = npy(np.zeros((500, 1, 4, 4), np.float32))
        bulk = await running.client.post(PREDICT, content=array, headers={"content-type": NPY})
        assert bulk.status_code == 200


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
        return image_input(data, spec)

    monkeypatch.setattr(v1, "image_input", counted)
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
        return image_input(data, spec)

    def told(self: BodyBudget, size: int) -> None:
        give_back(self, size)
        ended.set()

    monkeypatch.setattr(v1, "image_input", slowly)
    monkeypatch.setattr(BodyBudget, "give_back", told)
    async with serve(repository, deadline_seconds=0.2) as running:
        response = await running.post(PREDICT, images_of((8, 8), (8, 8), (8, 8)))
        assert response.status_code == 504
        gate.set()
        assert await asyncio.to_thread(ended.wait, 10)
        assert len(decoded) == 1
        assert (await running.post(PREDICT, images_of((8, 8)))).status_code == 200


async def test_a_model_that_answers_with_infinity_is_not_quoted(service: Any, images: Pixels) -> None:
    good = images(1, 3)
    bad = np.full_like(good, 3e38)
    for path, body in (
        ("/v1/models/open:predict", {"instances": [*good.tolist(), *bad.tolist()]}),
        (
            "/v2/models/open/infer",
            {"inputs": [{"name": "image", "shape": [1, 1, 4, 4], "datatype": "FP32", "data": bad.ravel().tolist()}]},
        ),
    ):
        response = await service.post(path, body)
        assert response.status_code == 422
        assert "not finite" in response.json()["detail"]
    alone = {"instances": good.tolist()}
    answers = await asyncio.gather(
        *(service.post("/v1/models/open:predict", body) for body in (alone, {"instances": bad.tolist()}, alone))
    )
    assert [answer.status_code for answer in answers] == [200, 422, 200]
    assert service.value("softrisk_predictions_total", model="open", version="1") == 3


async def test_a_fault_of_ours_is_a_problem_with_an_id_logged_and_counted(service: Any, monkeypatch: Any) -> None:
    def broken(*_: object) -> object:
        raise ZeroDivisionError("the secret of the implementation")

    monkeypatch.setattr(service.engine.find("tiny").batcher._runtime, "run", broken)
    with capture_logs() as logs:
        response = await service.post(PREDICT, {"instances": [INSTANCE]}, **{"x-request-id": "my-id"})
    assert response.status_code == 500
    assert [(line["event"], line["request_id"], line["exc_info"]) for line in logs] == [
        ("internal error", "my-id", True)
    ]
    assert response.headers["content-type"] == "application/problem+json"
    assert "my-id" in response.json()["detail"]
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    assert service.value("softrisk_internal_errors_total") == 1
    labels = {"model": "tiny", "version": "2", "protocol": "v1", "code": "500"}
    assert service.value("softrisk_inference_requests_total", **labels) == 1


async def test_request_ids_of_callers_are_kept_only_if_plain(service: Any) -> None:
    kept = await service.client.get("/livez", headers={"x-request-id": "a-1:b_c.d"})
    assert kept.headers["x-request-id"] == "a-1:b_c.d"
    for odd in ("", "a b", "x" * 129, "ä".encode()):
        made = await service.client.get("/livez", headers={"x-request-id": odd})
        assert len(made.headers["x-request-id"]) == 16


Send = Callable[[str, str, bytes], int]


@pytest.fixture(scope="module")
def send(repository: Path, serve: Any) -> Iterator[Send]:
    """Posts to one long-running app from synchronous code, for hypothesis."""
    with asyncio.Runner() as runner:
        context = serve(repository)
        running = runner.run(context.__aenter__())

        def post(path: str, media: str, body: bytes) -> int:
            response = runner.run(running.client.post(path, content=body, headers={"content-type": media}))
            answer = orjson.loads(response.content)  # which, unlike Python's own parser, takes no NaN
            if response.status_code != 200:
                Problem.model_validate(answer)
            return int(response.status_code)

        yield post
        runner.run(context.__aexit__(None, None, None))


FUZZ = settings(max_examples=60, deadline=None)
KNOWN = {200, 400, 413, 415, 422}
MEDIA = st.sampled_from([JSON, "image/png", "image/jpeg", NPY, "application/json; charset=latin-1", "x"])
NUMBERS = st.integers(0, 1) | st.floats(allow_nan=False, width=32) | st.integers(-(2**63), 2**64 - 1)
LEAVES = NUMBERS | st.booleans() | st.none() | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["b64", "image", "name", "alpha"]) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=30,
)
UNIT = st.floats(0, 1, width=32)
VALID = st.lists(
    st.lists(st.lists(UNIT, min_size=4, max_size=4), min_size=4, max_size=4).map(lambda plane: [plane]),
    min_size=1,
    max_size=2,
)
ROWS = st.lists(st.lists(st.lists(st.lists(NUMBERS, min_size=3, max_size=4), max_size=4), max_size=1), max_size=3)
LEVELS = st.floats(0, 1) | st.floats(allow_nan=False) | st.sampled_from([1e-310, 5e-324, 0.5, 1 - 2**-53])
GUARANTEES = st.sampled_from(["marginal", "confident"])
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={"alpha": LEVELS | VALUES, "guarantee": GUARANTEES | VALUES, "probabilities": st.booleans() | VALUES},
)
ANY_PARAMETERS = PARAMETERS | st.dictionaries(st.text(max_size=5), VALUES) | VALUES
TENSOR = st.fixed_dictionaries(
    {
        "name": st.just("image") | VALUES,
        "shape": st.just([1, 1, 4, 4]) | st.lists(st.integers(-2, 2**70), max_size=5) | VALUES,
        "datatype": st.just("FP32") | VALUES,
        "data": st.lists(NUMBERS, min_size=15, max_size=17) | VALUES,
    },
    optional={"parameters": st.dictionaries(st.text(max_size=5), VALUES) | VALUES},
)
VALID_TENSOR = st.lists(UNIT, min_size=16, max_size=16).map(
    lambda data: {"name": "image", "shape": [1, 1, 4, 4], "datatype": "FP32", "data": data}
)


@given(MEDIA, st.binary(max_size=300))
@FUZZ
def test_fuzzed_bytes(send: Send, media: str, body: bytes) -> None:
    assert send(PREDICT, media, body) in KNOWN
    assert send(INFER, media, body) in KNOWN


@given(st.sampled_from([VALID_NPY, whole_png()]), st.integers(0, 200), st.binary(min_size=1, max_size=20), MEDIA)
@FUZZ
def test_fuzzed_files(send: Send, data: bytes, start: int, patch: bytes, media: str) -> None:
    damaged = data[:start] + patch + data[start + len(patch) :]
    assert send(PREDICT, media, damaged) in KNOWN
    document = orjson.dumps({"instances": [{"b64": base64.b64encode(damaged).decode()}]})
    assert send(PREDICT, JSON, document) in KNOWN


@given(VALID, PARAMETERS)
@FUZZ
def test_fuzzed_parameters_of_valid_inputs(send: Send, instances: list[Any], parameters: dict[str, Any]) -> None:
    for document in ({"instances": instances, "parameters": parameters}, {"instances": instances}):
        assert send(PREDICT, JSON, orjson.dumps(document, default=str)) in KNOWN
    flat = np.array(instances, np.float32).ravel().tolist()
    tensor = {"name": "image", "shape": [len(instances), 1, 4, 4], "datatype": "FP32", "data": flat}
    assert send(INFER, JSON, orjson.dumps({"inputs": [tensor], "parameters": parameters})) in KNOWN


@given(st.fixed_dictionaries({"instances": VALID | ROWS | VALUES}, optional={"parameters": ANY_PARAMETERS}) | VALUES)
@FUZZ
def test_fuzzed_predict_documents(send: Send, document: object) -> None:
    body = orjson.dumps(document, default=str) if _encodable(document) else repr(document).encode()
    assert send(PREDICT, JSON, body) in KNOWN
    assert send("/v1/models/open:predict", JSON, body) in KNOWN


@given(
    st.fixed_dictionaries(
        {"inputs": st.lists(VALID_TENSOR | TENSOR, max_size=2) | VALUES},
        optional={
            "id": VALUES,
            "outputs": VALUES | st.lists(st.fixed_dictionaries({"name": VALUES})),
            "parameters": ANY_PARAMETERS,
        },
    )
)
@FUZZ
def test_fuzzed_infer_documents(send: Send, document: object) -> None:
    body = orjson.dumps(document) if _encodable(document) else repr(document).encode()
    assert send(INFER, JSON, body) in KNOWN
    assert send("/v2/models/both/infer", JSON, body) in KNOWN


def _encodable(document: object) -> bool:
    try:
        orjson.dumps(document)
    except (TypeError, ValueError):
        return False
    return True
