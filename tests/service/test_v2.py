"""Open Inference Protocol: what a caller sends and gets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray

from softrisk_core.conformal import rank_limit
from softrisk_core.manifest import OUTPUTS
from softrisk_service.schemas import InferResponse, ModelMetadata

Pixels = Callable[[int, int], NDArray[np.float32]]
Post = Callable[..., httpx2.Response]

GOLDEN = Path(__file__).parent / "golden"
INFER = "/v2/models/tiny/infer"


def tensor(array: NDArray[np.float32], **changes: Any) -> dict[str, Any]:
    return {"name": "image", "shape": array.shape, "datatype": "FP32", "data": array.ravel().tolist()} | changes


def outputs(answer: Any) -> dict[str, Any]:
    return {output["name"]: output["data"] for output in answer["outputs"]}


async def test_the_golden_request_has_the_golden_answer(service: Any) -> None:
    request = json.loads((GOLDEN / "v2_request.json").read_text())
    response = await service.post("/v2/models/tiny/versions/1/infer", request)
    answer, expected = response.json(), json.loads((GOLDEN / "v2_response.json").read_text())
    for output, wanted in zip(answer["outputs"], expected["outputs"], strict=True):
        assert output.pop("data") == pytest.approx(wanted.pop("data"), rel=1e-5, abs=1e-7)
    assert answer == expected


async def test_every_output_comes_without_a_filter_and_agrees_with_v1(service: Any, images: Pixels) -> None:
    array = images(40, 5)
    answer = (await service.post(INFER, {"inputs": [tensor(array)]})).json()
    InferResponse.model_validate(answer)
    assert [output["name"] for output in answer["outputs"]] == list(OUTPUTS)
    metadata = (await service.client.get("/v2/models/tiny")).json()
    ModelMetadata.model_validate(metadata)
    assert [output["name"] for output in metadata["outputs"]] == list(OUTPUTS)
    for output, described in zip(answer["outputs"], metadata["outputs"], strict=True):
        assert output["datatype"] == described["datatype"]
        assert output["shape"] == [40, *described["shape"][1:]]
    predictions = (await service.post("/v1/models/tiny:predict", {"instances": array.tolist()})).json()["predictions"]
    named = outputs(answer)
    for name in ("flagged", "rank", "nonconformity"):
        assert named[name] == [prediction["risk"][name] for prediction in predictions]
    assert named["label"] == [prediction["label"] for prediction in predictions]
    assert named["p_value"] == pytest.approx([prediction["risk"]["p_value"] for prediction in predictions], abs=1e-7)


async def test_outputs_are_filtered_and_the_id_is_echoed(service: Any, images: Pixels) -> None:
    body = {"id": "käse-1", "inputs": [tensor(images(2, 5))], "outputs": [{"name": "rank"}, {"name": "label"}]}
    answer = (await service.post(INFER, body)).json()
    assert answer["id"] == "käse-1"
    assert [output["name"] for output in answer["outputs"]] == ["rank", "label"]
    assert [output["shape"] for output in answer["outputs"]] == [[2], [2]]


async def test_alpha_moves_the_flag_and_is_told(service: Any, images: Pixels) -> None:
    body = {"inputs": [tensor(images(40, 5))], "parameters": {"alpha": 0.5}}
    response = await service.post(INFER, body)
    answer = response.json()
    named = outputs(answer)
    assert named["flagged"] == [rank <= 100 for rank in named["rank"]]
    assert (answer["parameters"]["alpha"], answer["parameters"]["n"]) == (0.5, 199)
    metadata = (await service.client.get("/v2/models/tiny")).json()
    assert metadata["parameters"]["calibration_id"] == answer["parameters"]["calibration_id"]
    assert f"flagged={sum(named['flagged'])}" in response.headers["x-adversarial-risk"]


async def test_the_guarantee_is_that_of_v1(service: Any, images: Pixels) -> None:
    body = {"inputs": [tensor(images(60, 5))], "parameters": {"alpha": 0.5, "guarantee": "confident"}}
    named = outputs((await service.post(INFER, body)).json())
    assert named["flagged"] == [rank <= rank_limit(0.5, 199, "confident") for rank in named["rank"]]
    assert named["flagged"] != [rank <= rank_limit(0.5, 199) for rank in named["rank"]]


async def test_what_clients_send_unasked_changes_nothing(service: Any, images: Pixels) -> None:
    plain = {"inputs": [tensor(images(2, 5))], "outputs": [{"name": "rank"}]}
    unasked = {
        "inputs": [tensor(images(2, 5), parameters={"content_type": "np"})],
        "outputs": [{"name": "rank", "parameters": {"content_type": "np"}}],
        "parameters": {"priority": 0, "timeout": 1, "sequence_id": 0, "sequence_start": True, "sequence_end": True},
    }
    expected = (await service.post(INFER, plain)).json()
    assert (await service.post(INFER, unasked)).json() == expected


async def test_nested_data_and_a_version_in_the_path(service: Any, images: Pixels) -> None:
    array = images(2, 5)
    path = "/v2/models/tiny/versions/1/infer"
    flat = await service.post(path, {"inputs": [tensor(array)]})
    nested = await service.post(path, {"inputs": [tensor(array, data=array.tolist())]})
    assert flat.json() == nested.json()
    assert flat.json()["model_version"] == "1"


async def test_two_inputs_in_any_order(service: Any, images: Pixels) -> None:
    image, sound = images(2, 5), np.array([[0.25, 0.5]] * 2, np.float32)
    tensors = [tensor(image), tensor(sound, name="sound")]
    forth = await service.post("/v2/models/both/infer", {"inputs": tensors})
    back = await service.post("/v2/models/both/infer", {"inputs": tensors[::-1]})
    assert forth.status_code == 200
    assert forth.json() == back.json()


async def test_server_and_health(service: Any) -> None:
    get = service.client.get
    for path in ("/v2", "/v2/"):
        answer = (await get(path)).json()
        assert (answer["name"], answer["extensions"]) == ("softrisk", ["binary_tensor_data"])
    assert (await get("/v2/health/live")).json() == {"live": True}
    for path in ("/v2/health/ready", "/v2/models/tiny/ready", "/v2/models/tiny/versions/1/ready"):
        assert (await get(path)).json() == {"ready": True}
    assert (await get("/v2/models/tiny/versions/1")).json()["versions"] == ["1", "2"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"inputs": []}, "'image' is missing"),
        ({"inputs": None}, "inputs"),
        ({"inputs": ["x"]}, "inputs"),
        ({"inputs": [{"name": "picture"}]}, "'picture' is not an input"),
        ({"inputs": [{"name": {}}]}, "is not an input"),
        ({"id": 7}, "id"),
        ({"outputs": "rank"}, "outputs"),
        ({"outputs": [{"name": "ranks"}]}, "'ranks' is not an output"),
        ({"outputs": [{"name": ["rank"]}]}, "is not an output"),
        ({"outputs": [{"name": "rank"}, {"name": "rank"}]}, "twice"),
        ({"parameters": {"alpha": "0.1"}}, "alpha"),
        ({"parameters": {"alpha": 0.001}}, "999"),
        ({"parameters": [1]}, "parameters"),
        ({"parameters": {"alfa": 0.1}}, "'alfa' is not known; known: alpha, guarantee, binary_data_output"),
        ({"parameters": {"guarantee": "sure"}}, "expected marginal or confident, got 'sure'"),
        ({"outputs": [{"name": "rank", "parameters": {"classification": 3}}]}, "outputs[0].parameters: 'classific"),
    ],
)
def test_a_wrong_request_is_refused_by_name(post: Post, images: Pixels, change: dict[str, Any], named: str) -> None:
    response = post(INFER, json.dumps({"inputs": [tensor(images(1, 5))]} | change).encode())
    assert response.status_code == 422
    assert named in response.json()["error"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"datatype": "FP64"}, "expected datatype FP32, got 'FP64'"),
        ({"shape": [1, 4, 4]}, "expected shape [-1, 1, 4, 4], got [1, 4, 4]"),
        ({"shape": [1, 4, 4, 1]}, "expected shape"),
        ({"shape": [True, 1, 4, 4]}, "expected shape"),
        ({"shape": [1.0, 1, 4, 4]}, "expected shape"),
        ({"shape": "1,1,4,4"}, "expected shape"),
        ({"shape": [0, 1, 4, 4], "data": []}, "at least one instance"),
        ({"shape": [-1, 1, 4, 4]}, "at least one instance"),
        ({"shape": [2, 1, 4, 4]}, "expected 32 values"),
        ({"data": "AAAA"}, "expected a list as data"),
        ({"data": []}, "expected 16 values"),
        ({"data": [0.5] * 15 + ["x"]}, "data[15]: expected a number, got the string 'x'"),
        ({"data": [0.5] * 15 + [[0.5]]}, "data[15]: expected a number, got a list"),
        ({"data": [[0.5] * 16]}, "expected"),
        ({"data": [0.5] * 15 + [2]}, "values in [0, 1], got 2"),
        ({"parameters": {"shared_memory_region": "x"}}, "inputs[0].parameters: 'shared_memory_region' is not known"),
    ],
)
def test_a_wrong_tensor_is_refused_by_name(post: Post, images: Pixels, change: dict[str, Any], named: str) -> None:
    response = post(INFER, json.dumps({"inputs": [tensor(images(1, 5), **change)]}).encode())
    assert response.status_code == 422
    assert named in response.json()["error"]
