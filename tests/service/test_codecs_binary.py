"""Triton's binary tensor extension: bytes in, bytes out, and nothing taken that is not exactly as declared."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from softrisk_core.groups import Grouping
from softrisk_core.manifest import OUTPUTS, InputSpec, Manifest
from softrisk_service import schemas
from softrisk_service.catalogue import ServedVersion
from softrisk_service.codecs import v2
from softrisk_service.codecs.allowance import Allowance
from softrisk_service.codecs.envelope import Envelope
from softrisk_service.codecs.memory import Memory
from softrisk_service.policy import Policy
from softrisk_service.schemas import Problem

Pixels = Callable[[int, int], NDArray[np.float32]]
Post = Callable[..., httpx2.Response]

INFER = "/v2/models/tiny/infer"
BOTH = "/v2/models/both/infer"
OCTETS = "application/octet-stream"
LENGTH = "inference-header-content-length"
DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8"), "BOOL": np.dtype("?")}
IMAGE = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4) / 16


def declared(name: str, array: NDArray[Any], **changes: Any) -> dict[str, Any]:
    """An input whose values follow the JSON."""
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": array.nbytes},
    } | changes


def packed(document: object, *arrays: NDArray[Any]) -> tuple[bytes, dict[str, str]]:
    """A body and its headers."""
    head = json.dumps(document).encode()
    body = b"".join([head, *(array.astype("<f4").tobytes() for array in arrays)])
    return body, {"content_type": OCTETS, "inference_header_content_length": str(len(head))}


def unpacked(response: httpx2.Response) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The JSON of an answer and its tensors; every byte of it is accounted for."""
    length = int(response.headers[LENGTH])
    answer, rest = json.loads(response.content[:length]), response.content[length:]
    schemas.InferResponse.model_validate(answer)
    tensors = {}
    for output in answer["outputs"]:
        if "data" in output:
            values = np.array(output["data"], DTYPES[output["datatype"]])
        else:
            size = output["parameters"]["binary_data_size"]
            values, rest = np.frombuffer(rest[:size], DTYPES[output["datatype"]]), rest[size:]
        tensors[output["name"]] = values.reshape(output["shape"])
    assert not rest
    return answer, tensors


GOLDEN_REQUEST = (
    b'{"id":"7","inputs":[{"name":"image","shape":[1,1,4,4],"datatype":"FP32","parameters":{"binary_data_size":64}}],'
    b'"outputs":[{"name":"label","parameters":{"binary_data":true}},{"name":"rank"},'
    b'{"name":"flagged","parameters":{"binary_data":true}}]}'
)
GOLDEN_ANSWER = (
    b'{"model_name":"tiny","model_version":"1","id":"7","parameters":{"calibration_id":"%b","n":199,"alpha":0.05},'
    b'"outputs":[{"name":"label","datatype":"INT64","shape":[1],"parameters":{"binary_data_size":8}},'
    b'{"name":"rank","datatype":"INT64","shape":[1],"data":[%d]},'
    b'{"name":"flagged","datatype":"BOOL","shape":[1],"parameters":{"binary_data_size":1}}]}'
)


def test_the_bytes_of_a_request_and_its_answer(post: Post) -> None:
    body = GOLDEN_REQUEST + struct.pack("<16f", *(index / 16 for index in range(16)))
    headers = {"content_type": OCTETS, "inference_header_content_length": "243"}
    response = post("/v2/models/tiny/versions/1/infer", body, **headers)
    tensor = {"name": "image", "shape": [1, 1, 4, 4], "datatype": "FP32", "data": IMAGE.ravel().tolist()}
    plain = post("/v2/models/tiny/versions/1/infer", json.dumps({"inputs": [tensor]}).encode()).json()
    values = {output["name"]: output["data"][0] for output in plain["outputs"]}
    head = GOLDEN_ANSWER % (plain["parameters"]["calibration_id"].encode(), values["rank"])
    assert response.status_code == 200
    assert response.headers["content-type"] == OCTETS
    assert response.headers[LENGTH] == str(len(head))
    assert response.content == head + struct.pack("<q?", values["label"], values["flagged"])
    assert (values["label"], values["rank"], values["flagged"]) == (0, 96, False)


ARRAYS = st.tuples(st.integers(1, 5), st.integers(0, 2**32 - 1)).map(
    lambda drawn: (np.random.default_rng(drawn[1]).integers(0, 17, (drawn[0], 1, 4, 4)) / 16).astype(np.float32)
)
WANTED = st.none() | st.lists(
    st.tuples(st.sampled_from(OUTPUTS), st.booleans()), min_size=1, unique_by=lambda one: one[0]
)


@given(ARRAYS, WANTED, st.booleans(), st.none() | st.text(st.characters(codec="utf-8"), max_size=8), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_binary_and_json_say_the_same(
    post: Post, array: NDArray[np.float32], wanted: Any, by_default: bool, name: str | None, padding: int
) -> None:
    common: dict[str, Any] = {"parameters": {"alpha": 0.3}}
    if name is not None:
        common["id"] = name + " " * padding  # moves the tensor by as much
    if wanted is not None:
        common["outputs"] = [{"name": output, "parameters": {"binary_data": binary}} for output, binary in wanted]
    plain = json.loads(json.dumps(common))
    for output in plain.get("outputs", ()):
        del output["parameters"]
    common["parameters"]["binary_data_output"] = by_default
    data = {"name": "image", "shape": array.shape, "datatype": "FP32", "data": array.ravel().tolist()}
    expected = post(INFER, json.dumps(plain | {"inputs": [data]}).encode()).json()
    body, headers = packed({"inputs": [declared("image", array)]} | common, array)
    response = post(INFER, body, **headers)
    if by_default if wanted is None else any(binary for _, binary in wanted):
        answer, tensors = unpacked(response)
    else:
        assert LENGTH not in response.headers
        answer = response.json()
        tensors = {one["name"]: np.array(one["data"], DTYPES[one["datatype"]]) for one in answer["outputs"]}
    assert {key: answer[key] for key in answer if key != "outputs"} == {
        key: expected[key] for key in expected if key != "outputs"
    }
    assert [output["name"] for output in answer["outputs"]] == [output["name"] for output in expected["outputs"]]
    for output in expected["outputs"]:
        actual = tensors[output["name"]]
        # Equal to the last bit: float32 survives its shortest digits.
        assert actual.ravel().tolist() == np.array(output["data"], DTYPES[output["datatype"]]).tolist()


def test_inputs_in_json_and_binary_go_together(post: Post, images: Pixels) -> None:
    image, sound = images(3, 5), np.array([[0.25, 0.5]] * 3, np.float32)
    json_image = {"name": "image", "shape": image.shape, "datatype": "FP32", "data": image.tolist()}
    json_sound = {"name": "sound", "shape": sound.shape, "datatype": "FP32", "data": sound.ravel().tolist()}
    binary_image, binary_sound = declared("image", image), declared("sound", sound)
    expected = post(BOTH, json.dumps({"inputs": [json_image, json_sound]}).encode())
    assert expected.status_code == 200
    for inputs, arrays in (
        ([binary_image, binary_sound], (image, sound)),
        ([binary_sound, binary_image], (sound, image)),
        ([json_image, binary_sound], (sound,)),
        ([binary_image, json_sound], (image,)),
        ([json_sound, json_image], ()),
    ):
        body, headers = packed({"inputs": inputs}, *arrays)
        assert post(BOTH, body, **headers).content == expected.content


def test_a_raw_binary_request_is_the_input_alone(post: Post, images: Pixels) -> None:
    array = images(3, 5)
    body, headers = packed({"inputs": [declared("image", array)], "parameters": {"binary_data_output": True}}, array)
    expected = post(INFER, body, **headers)
    raw = post(INFER, array.tobytes(), content_type=OCTETS, inference_header_content_length="0")
    assert raw.status_code == 200
    assert raw.content == expected.content
    assert raw.headers[LENGTH] == expected.headers[LENGTH]


def changed(**changes: Any) -> dict[str, Any]:
    return {"inputs": [declared("image", IMAGE, **changes)]}


def sized(size: Any) -> dict[str, Any]:
    return changed(parameters={"binary_data_size": size})


SIZES: tuple[Any, ...] = (0, 60, 63, 65, 128, -64, 2**62, 2**63, 2**70, 64.0, True, "64", [64], {})

BAD: list[tuple[dict[str, Any], tuple[NDArray[Any], ...], int, str]] = [
    # sizes against shape and type
    *((sized(size), (IMAGE,), 422, "expected parameters.binary_data_size 64 for shape") for size in SIZES),
    (changed(shape=[2, 1, 4, 4]), (IMAGE,), 422, "binary_data_size 128 for shape [2, 1, 4, 4] of FP32, got 64"),
    (changed(shape=[2**61, 1, 4, 4]), (IMAGE,), 422, "got 64"),
    (changed(shape=[0, 1, 4, 4], parameters={"binary_data_size": 0}), (), 422, "at least one instance"),
    (changed(shape=[-1, 1, 4, 4]), (IMAGE,), 422, "at least one instance"),
    (changed(shape=[1, 1, 4, 4.0]), (IMAGE,), 422, "expected shape [-1, 1, 4, 4]"),
    (changed(shape=[2000, 1, 4, 4], parameters={"binary_data_size": 128000}), (IMAGE,), 413, "at most 1024"),
    (changed(datatype="FP16"), (IMAGE,), 422, "expected datatype FP32, got 'FP16'"),
    (changed(datatype="BYTES"), (IMAGE,), 422, "expected datatype FP32"),
    # the body against what is declared
    (changed(), (), 400, "declare 64 bytes of binary data, 0 follow"),
    (changed(), (IMAGE[..., :3],), 400, "declare 64 bytes of binary data, 48 follow"),
    (changed(), (IMAGE, IMAGE), 400, "declare 64 bytes of binary data, 128 follow"),
    # declarations against each other
    (changed(data=[0.5] * 16), (IMAGE,), 422, "data and parameters.binary_data_size exclude each other"),
    (changed(data=[]), (IMAGE,), 422, "exclude each other"),
    (changed(parameters=None), (IMAGE,), 422, "expected a list as data, or parameters.binary_data_size"),
    (changed(parameters={"binary_data_size": None}), (IMAGE,), 422, "expected a list as data"),
    (changed(parameters={"binary_data_size": 64, "binary_data": True}), (IMAGE,), 422, "'binary_data' is not known"),
    ({"inputs": [declared("image", IMAGE)] * 2}, (IMAGE, IMAGE), 422, "'image' is not an input, or came before"),
    ({"inputs": [declared("sound", IMAGE)]}, (IMAGE,), 422, "'sound' is not an input"),
    ({"inputs": []}, (IMAGE,), 422, "'image' is missing"),
    # what is asked for
    (changed() | {"parameters": {"binary_data_output": 1}}, (IMAGE,), 422, "expected true or false, got 1"),
    (
        changed() | {"outputs": [{"name": "rank", "parameters": {"binary_data": "yes"}}]},
        (IMAGE,),
        422,
        "outputs[0].parameters.binary_data: expected true or false, got 'yes'",
    ),
    (
        changed() | {"outputs": [{"name": "rank", "parameters": {"binary_data_size": 8}}]},
        (IMAGE,),
        422,
        "outputs[0].parameters: 'binary_data_size' is not known; known: binary_data",
    ),
    # values
    (changed(), (np.full_like(IMAGE, np.nan),), 422, "not finite"),
    (changed(), (np.full_like(IMAGE, -np.inf),), 422, "not finite"),
    (changed(), (IMAGE * 2,), 422, "values in [0, 1], got 1.125 at [0, 0, 2, 1]"),
]  # fmt: skip


def refused(response: httpx2.Response, status: int, named: str) -> None:
    Problem.model_validate(response.json())
    assert named in response.json()["error"]
    assert response.status_code == status
    assert len(response.json()["error"]) < 400


@pytest.mark.parametrize(("document", "arrays", "status", "named"), BAD, ids=map(str, range(len(BAD))))
def test_what_is_not_exactly_as_declared_is_refused(
    post: Post, document: dict[str, Any], arrays: tuple[NDArray[Any], ...], status: int, named: str
) -> None:
    body, headers = packed(document, *arrays)
    refused(post(INFER, body, **headers), status, named)
    body, headers = packed(changed(), IMAGE)
    assert post(INFER, body, **headers).status_code == 200


def test_sizes_that_overflow_together_are_refused(post: Post) -> None:
    inputs = [
        declared("image", IMAGE),
        declared("sound", np.zeros((1, 2)), parameters={"binary_data_size": 2**64 - 64}),
    ]
    body, headers = packed({"inputs": inputs}, IMAGE)
    refused(post(BOTH, body, **headers), 422, "input 'sound': expected parameters.binary_data_size 8")


@pytest.mark.parametrize(
    ("length", "status", "named"),
    [
        ("100", 400, "not valid JSON"),
        ("9999", 400, "is 9999, the body has only 243 bytes"),
        ("999999999999999999", 400, "the body has only"),
        ("-1", 400, "expected a number"),
        ("1e2", 400, "expected a number"),
        ("", 400, "expected a number"),
        ("0", 422, "expected 64 bytes for each instance, got 243 bytes"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(post: Post, length: str, status: int, named: str) -> None:
    body = GOLDEN_REQUEST
    refused(post(INFER, body, content_type=OCTETS, inference_header_content_length=length), status, named)


def test_a_length_makes_no_difference_to_json(post: Post) -> None:
    data = {"name": "image", "shape": [1, 1, 4, 4], "datatype": "FP32", "data": IMAGE.ravel().tolist()}
    body = json.dumps({"inputs": [data]}).encode()
    with_length = post(INFER, body, inference_header_content_length=str(len(body)))
    assert with_length.status_code == 200
    assert with_length.content == post(INFER, body).content
    refused(post(INFER, body + b" ", inference_header_content_length=str(len(body))), 400, "1 follow")


def test_binary_tensors_need_the_length_and_v2(post: Post, images: Pixels) -> None:
    body, _ = packed(changed(), IMAGE)
    refused(post(INFER, body), 400, "not valid JSON")
    refused(post(INFER, b""), 400, "not valid JSON")
    refused(post(INFER, json.dumps(changed()).encode()), 400, "declare 64 bytes of binary data, 0 follow")
    refused(
        post(INFER, body, content_type=OCTETS), 415, "application/octet-stream with Inference-Header-Content-Length"
    )
    for media in ("image/png", "text/plain", ""):
        refused(post(INFER, body, content_type=media, inference_header_content_length="9"), 415, "is not accepted")
    instances = json.dumps({"instances": images(1, 1).tolist()}).encode()
    for length in ("0", "5", str(len(instances))):
        refused(post("/v1/models/tiny:predict", instances, inference_header_content_length=length), 415, "use V2")


def test_raw_requests_are_of_whole_instances_of_one_input(post: Post, images: Pixels) -> None:
    headers = {"content_type": OCTETS, "inference_header_content_length": "0"}
    refused(post(INFER, b"", **headers), 422, "at least one instance")
    refused(post(INFER, bytes(63), **headers), 422, "expected 64 bytes for each instance, got 63")
    refused(post(INFER, bytes(64 * 1025), **headers), 413, "at most 1024")
    refused(post(BOTH, bytes(72), **headers), 422, "a model with 2 inputs takes no raw binary request")


def test_the_example_in_the_documentation_is_exact(repository_root: Path) -> None:
    text = (repository_root / "docs/rest.md").read_text()
    pattern = r"inference-header-content-length: (\d+)\ncontent-length: (\d+)\n\n(\{.*\})\n"
    examples = re.findall(pattern, text, re.IGNORECASE)
    assert len(examples) == 2
    for length, whole, head in examples:
        document = json.loads(head)
        # Of requests the inputs, of answers the outputs.
        tensors = document.get("inputs") or document["outputs"]
        sizes = [tensor.get("parameters", {}).get("binary_data_size", 0) for tensor in tensors]
        assert (len(head), len(head) + sum(sizes)) == (int(length), int(whole))
    schemas.InferRequest.model_validate_json(examples[0][2])
    schemas.InferResponse.model_validate_json(examples[1][2])


@pytest.mark.parametrize("padding", range(4))
def test_tensors_are_views_of_the_body_where_it_is_aligned(padding: int) -> None:
    manifest = Manifest.model_construct(
        name="m", version=1, inputs=(InputSpec(name="image", shape=(-1, 1, 4, 4), domain=None),), classes=("a", "b"),
        calibration=type("Calibration", (), {"id": "c", "n": 199}),
    )  # fmt: skip
    policy = Policy.of(Grouping.marginal(199, 3), 0.05, None, None)
    served = ServedVersion(manifest, policy, None, None, "CPU", Memory())  # type: ignore[arg-type] # the codec neither runs nor counts
    head = json.dumps(changed()).encode()
    head += b" " * ((padding - len(head)) % 4)
    body = head + IMAGE.tobytes()
    for _ in range(2):
        call = v2.decode(Envelope(OCTETS, "identity", len(head)), body, served, Allowance(9, 9, 9, 10**6), "full")
        array = call.inputs["image"]
        assert array.flags.aligned
        assert np.array_equal(array, IMAGE)
        assert np.shares_memory(array, np.frombuffer(body, np.uint8)) == (padding == 0)
