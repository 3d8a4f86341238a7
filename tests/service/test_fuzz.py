"""Whatever a client sends, the answer is one that the contract knows, and no fault of ours."""

import base64
import gzip
import io
import zlib
from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from softrisk_service.schemas import Problem

Post = Callable[..., httpx2.Response]

PREDICT = "/v1/models/tiny:predict"
INFER = "/v2/models/tiny/infer"
JSON = "application/json"
NPY = "application/x-npy"
OCTETS = "application/octet-stream"


def status(response: httpx2.Response) -> int:
    if response.status_code == 200:
        length = int(response.headers.get("inference-header-content-length", len(response.content)))
        orjson.loads(response.content[:length])  # which, unlike Python's own parser, takes no NaN
    else:
        Problem.model_validate(orjson.loads(response.content))
    return response.status_code


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((1, 1, 4, 4), np.float32))
    return buffer.getvalue()


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


BINARY_TENSOR = st.fixed_dictionaries(
    {"name": st.just("image") | VALUES, "shape": st.just([1, 1, 4, 4]) | VALUES, "datatype": st.just("FP32") | VALUES},
    optional={
        "parameters": st.fixed_dictionaries({"binary_data_size": st.sampled_from([64, 0, -64, 2**63, 64.0]) | VALUES})
        | VALUES,
        "data": VALUES,
    },
)
BINARY_DOCUMENT = st.fixed_dictionaries(
    {"inputs": st.lists(BINARY_TENSOR, min_size=1, max_size=2) | VALUES},
    optional={
        "parameters": st.fixed_dictionaries({"binary_data_output": st.booleans() | VALUES}) | ANY_PARAMETERS,
        "outputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["rank", "logits", "flagged"]) | VALUES},
                optional={"parameters": st.fixed_dictionaries({"binary_data": st.booleans() | VALUES})},
            ),
            max_size=3,
        ),
    },
)
VALID_BINARY = {
    "inputs": [
        {"name": "image", "shape": [1, 1, 4, 4], "datatype": "FP32", "parameters": {"binary_data_size": 64}},
    ],
    "parameters": {"binary_data_output": True},
}
PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}
LENGTHS = st.none() | st.integers(-5, 5).map(str) | st.text(st.characters(min_codepoint=33, max_codepoint=126))


@given(st.just(VALID_BINARY) | BINARY_DOCUMENT, st.just(bytes(64)) | st.binary(max_size=200), LENGTHS, st.data())
@FUZZ
def test_fuzzed_binary_tensors(post: Post, document: object, tensors: bytes, length: str | None, data: Any) -> None:
    head = orjson.dumps(document) if _encodable(document) else b"{}"
    for path in (INFER, "/v2/models/both/infer", "/v2/models/open/infer"):
        whole = post(path, head + tensors, content_type=OCTETS, inference_header_content_length=str(len(head)))
        assert status(whole) in KNOWN
    body = head + tensors
    start = data.draw(st.integers(0, len(body)))
    damaged = body[:start] + data.draw(st.binary(max_size=4)) + body[start + data.draw(st.integers(0, 4)) :]
    shift = data.draw(st.integers(-3, 3))
    headers = {"inference_header_content_length": str(len(head) + shift) if length is None else length}
    assert status(post(INFER, damaged, content_type=OCTETS, **headers)) in KNOWN


@given(st.binary(max_size=300), st.sampled_from(list(PACK)), st.booleans(), st.binary(max_size=2))
@FUZZ
def test_fuzzed_packings(post: Post, data: bytes, encoding: str, packed: bool, behind: bytes) -> None:
    body = PACK[encoding](data) if packed else data
    for path in (PREDICT, INFER):
        assert status(post(path, body + behind, content_encoding=encoding)) in KNOWN


@given(MEDIA, st.binary(max_size=300))
@FUZZ
def test_fuzzed_bytes(post: Post, media: str, body: bytes) -> None:
    assert status(post(PREDICT, body, content_type=media)) in KNOWN
    assert status(post(INFER, body, content_type=media)) in KNOWN


@given(st.sampled_from([npy(), png()]), st.integers(0, 200), st.binary(min_size=1, max_size=20), MEDIA)
@FUZZ
def test_fuzzed_files(post: Post, data: bytes, start: int, patch: bytes, media: str) -> None:
    damaged = data[:start] + patch + data[start + len(patch) :]
    assert status(post(PREDICT, damaged, content_type=media)) in KNOWN
    document = orjson.dumps({"instances": [{"b64": base64.b64encode(damaged).decode()}]})
    assert status(post(PREDICT, document, content_type=JSON)) in KNOWN


@given(VALID, PARAMETERS)
@FUZZ
def test_fuzzed_parameters_of_valid_inputs(post: Post, instances: list[Any], parameters: dict[str, Any]) -> None:
    for document in ({"instances": instances, "parameters": parameters}, {"instances": instances}):
        assert status(post(PREDICT, orjson.dumps(document, default=str), content_type=JSON)) in KNOWN
    flat = np.array(instances, np.float32).ravel().tolist()
    tensor = {"name": "image", "shape": [len(instances), 1, 4, 4], "datatype": "FP32", "data": flat}
    assert status(post(INFER, orjson.dumps({"inputs": [tensor], "parameters": parameters}), content_type=JSON)) in KNOWN


@given(st.fixed_dictionaries({"instances": VALID | ROWS | VALUES}, optional={"parameters": ANY_PARAMETERS}) | VALUES)
@FUZZ
def test_fuzzed_predict_documents(post: Post, document: object) -> None:
    body = orjson.dumps(document, default=str) if _encodable(document) else repr(document).encode()
    assert status(post(PREDICT, body, content_type=JSON)) in KNOWN
    assert status(post("/v1/models/open:predict", body, content_type=JSON)) in KNOWN


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
def test_fuzzed_infer_documents(post: Post, document: object) -> None:
    body = orjson.dumps(document) if _encodable(document) else repr(document).encode()
    assert status(post(INFER, body, content_type=JSON)) in KNOWN
    assert status(post("/v2/models/both/infer", body, content_type=JSON)) in KNOWN


def _encodable(document: object) -> bool:
    try:
        orjson.dumps(document)
    except (TypeError, ValueError):
        return False
    return True
