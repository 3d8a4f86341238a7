"""Nothing that a client sends causes a 500, and every refusal says what was wrong."""

import asyncio
import base64
import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from PIL import Image
from structlog.testing import capture_logs

from softrisk_service.schemas import Problem

Pixels = Callable[[int, int], NDArray[np.float32]]
Post = Callable[..., httpx2.Response]

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
    (NPY, npy(np.full((1, 1, 4, 4), 0x7FF0000000000001).view(np.float64)), 422, "not finite"),  # signalling NaN
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
def test_a_bad_body_is_refused_with_a_problem(
    post: Post, images: Pixels, media: str, body: bytes, status: int, named: str
) -> None:
    response = post(PREDICT, body, content_type=media)
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    Problem.model_validate(problem)
    assert (response.status_code, problem["status"]) == (status, status)
    assert named in problem["detail"]
    assert problem["error"] == problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]
    assert len(problem["detail"]) < 400
    assert post(PREDICT, orjson.dumps({"instances": images(1, 1).tolist()})).status_code == 200


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


PACKED = gzip.compress(orjson.dumps({"instances": [INSTANCE]}))


@pytest.mark.parametrize(
    ("encoding", "body", "status", "named"),
    [
        ("br", PACKED, 415, "'br' is not accepted; accepted: gzip, deflate"),
        ("gzip, gzip", gzip.compress(PACKED), 415, "'gzip, gzip' is not accepted"),
        ("deflate", PACKED, 400, "not valid deflate"),
        ("gzip", PACKED[:-1], 400, "not valid gzip: it is cut off"),
        ("gzip", PACKED + b"x", 400, "1 bytes follow"),
        ("gzip", gzip.compress(b"{"), 400, "not valid JSON"),
        ("gzip", gzip.compress(b" " * 2**25), 413, "unpacks to more than"),
        ("identity", PACKED, 400, "not valid JSON"),
    ],
)
def test_badly_packed_bodies_are_refused(post: Post, encoding: str, body: bytes, status: int, named: str) -> None:
    response = post(PREDICT, body, content_encoding=encoding)
    Problem.model_validate(response.json())
    assert response.status_code == status
    assert named in response.json()["detail"]


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_packed_bodies_are_accepted(post: Post, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    for media, body in (
        (JSON, orjson.dumps({"instances": [INSTANCE]})),
        (NPY, npy(np.full((1, 1, 4, 4), 0.5, np.float32))),
    ):
        plain = post(PREDICT, body, content_type=media)
        assert plain.status_code == 200
        assert post(PREDICT, pack(body), content_type=media, content_encoding=encoding).content == plain.content


def test_a_body_without_media_type_is_json(post: Post) -> None:
    assert post(PREDICT, orjson.dumps({"instances": [INSTANCE]})).status_code == 200


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
    # The good one beside a bad one got no answer either.
    assert service.value("softrisk_predictions_total", model="open", version="1") == 2


async def test_a_fault_of_ours_is_a_problem_with_an_id_logged_and_counted(service: Any, monkeypatch: Any) -> None:
    def broken(*_: object) -> object:
        raise ZeroDivisionError("the secret of the implementation")

    monkeypatch.setattr(service.engine.find("tiny").batcher._runtime, "run", broken)
    with capture_logs() as logs:
        response = await service.post(PREDICT, {"instances": [INSTANCE]}, **{"x-request-id": "my-id"})
    assert response.status_code == 500
    assert [(line["event"], line["request_id"], type(line["exc_info"])) for line in logs] == [
        ("internal error", "my-id", ZeroDivisionError)
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
        assert 14 <= len(made.headers["x-request-id"]) <= 24
