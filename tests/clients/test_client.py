"""What both clients send and return, against a service that keeps the contract."""

from __future__ import annotations

import inspect
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np
import pytest

from softrisk_client import AsyncClient, Client, Decision, InvalidArgumentError, RequestTimeoutError, Tensor

if TYPE_CHECKING:
    from tests.clients.conftest import FakeService

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
JPEG = b"\xff\xd8\xff\xe0" + b"pixels"
WAV = b"RIFF\x00\x00\x00\x00WAVE" + b"samples"


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, service: FakeService) -> Any:
    """Call a method of one of the two clients by name; every test holds for both."""

    async def call(
        method: str, *args: Any, model: str | None = "mnist", base: str = "http://host", **kwargs: Any
    ) -> Any:
        transport = httpx2.MockTransport(service)
        if request.param == "sync":
            with Client(base, model, headers={"x-key": "k"}, transport=transport) as client:
                return getattr(client, method)(*args, **kwargs)
        async with AsyncClient(base, model, headers={"x-key": "k"}, transport=transport) as async_client:
            return await getattr(async_client, method)(*args, **kwargs)

    return call


async def test_a_prediction_comes_back_typed(call: Any, service: FakeService) -> None:
    answer = await call("predict", [[[0.0, 0.5]]])
    assert (answer.model_name, answer.model_version) == ("mnist", "1")
    (prediction,) = answer.predictions
    assert prediction.class_name == "seven"
    assert prediction.diagnostics.logit_gap == 8.1
    assert prediction.risk.decision is Decision.ACCEPT
    assert prediction.risk.p_value == 0.69
    assert service.body == {"instances": [[[0.0, 0.5]]], "parameters": {}}
    assert service.requests[0].headers["x-key"] == "k"


async def test_parameters_version_and_a_path_before_the_service_are_sent(call: Any, service: FakeService) -> None:
    service.script.append(httpx2.Response(404))
    with pytest.raises(Exception, match="404"):
        await call(
            "predict", [0], base="http://gate/way/", model="a b/c", version=2,
            alpha=0.05, guarantee="confident", probabilities=False,
        )  # fmt: skip
    assert str(service.requests[0].url) == "http://gate/way/v1/models/a%20b%2Fc/versions/2:predict"
    assert service.body["parameters"] == {"alpha": 0.05, "guarantee": "confident", "probabilities": False}


async def test_arrays_bytes_and_files_are_instances(call: Any, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    image = np.array([[0.1, 1.0]], np.float32)
    await call("predict", [image, PNG, tmp_path / "a.png", {"sound": image}])
    b64 = {"b64": b64encode(PNG).decode()}
    assert service.body["instances"] == [image.tolist(), b64, b64, {"sound": image.tolist()}]
    assert np.array_equal(np.array(service.body["instances"][0], np.float32), image)
    await call("predict", image[None])
    assert service.body["instances"] == [image.tolist()]
    for written in (b64, {"sound": b64}):  # as the service's own documentation writes it
        await call("predict", [written])
        assert service.body["instances"] == [written]


async def test_several_inputs_are_one_instance_by_name(call: Any, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "7.png").write_bytes(PNG)
    (tmp_path / "seven.wav").write_bytes(WAV)
    files = {"image": str(tmp_path / "7.png"), "audio": tmp_path / "seven.wav"}
    answer = await call("predict", files, model="digits")
    sent = {"image": {"b64": b64encode(PNG).decode()}, "audio": {"b64": b64encode(WAV).decode()}}
    assert service.body["instances"] == [sent]
    (prediction,) = answer.predictions
    assert (prediction.radius.certified, prediction.radius.estimated) == (0.50009, None)
    assert (prediction.radius.norm, prediction.radius.space["audio"]) == ("l2", "log-mel")
    assert prediction.radius.inputs["audio"].certified == 2.5
    await call("predict", [files, {"audio": WAV}], model="digits")
    assert service.body["instances"] == [sent, {"audio": sent["audio"]}]


async def test_a_single_file_is_one_instance(call: Any, service: FakeService, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    for given in (path, str(path), PNG, [str(path)]):
        assert (await call("predict", given)).predictions[0].radius is None
        assert service.body["instances"] == [{"b64": b64encode(PNG).decode()}]
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        await call("predict", "none.png")


@pytest.mark.parametrize("instance", [float("nan"), [np.inf], object()])
async def test_what_json_cannot_carry_is_not_sent(call: Any, service: FakeService, instance: object) -> None:
    with pytest.raises(InvalidArgumentError, match="no JSON form"):
        await call("predict", [instance])
    assert not service.requests


@pytest.mark.parametrize(("data", "media_type"), [(PNG, "image/png"), (JPEG, "image/jpeg")])
async def test_one_image_travels_as_it_is(
    call: Any, service: FakeService, data: bytes, media_type: str, tmp_path: Path
) -> None:
    (tmp_path / "image").write_bytes(data)
    for image in (data, tmp_path / "image"):
        answer = await call("predict_image", image, version=3)
        assert answer.predictions[0].label == 7
        assert service.requests[-1].content == data
        assert service.requests[-1].headers["content-type"] == media_type
        assert service.requests[-1].url.path == "/v1/models/mnist/versions/3:predict"


async def test_another_file_is_not_sent_as_an_image(call: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello")
    with pytest.raises(InvalidArgumentError, match=r"a\.txt is neither a PNG nor a JPEG"):
        await call("predict_image", tmp_path / "a.txt")
    with pytest.raises(InvalidArgumentError, match="start with b'hello'"):
        await call("predict_image", b"hello")


async def test_infer_sends_and_returns_named_tensors(call: Any, service: FakeService) -> None:
    answer = await call("infer", [Tensor.of("image", np.zeros((1, 2), np.float32))])
    assert service.body == {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 2], "data": [0.0, 0.0]}]}
    assert answer["p_value"].tolist() == [0.69]
    assert answer.parameters["n"] == 999
    with pytest.raises(KeyError, match="no output 'rank'; the answer has p_value"):
        answer["rank"]


async def test_infer_takes_a_filter_a_version_and_a_level(call: Any, service: FakeService) -> None:
    await call("infer", [], outputs=["p_value"], version=3, alpha=0.05)
    assert service.body == {"inputs": [], "outputs": [{"name": "p_value"}], "parameters": {"alpha": 0.05}}
    assert service.requests[0].url.path == "/v2/models/mnist/versions/3/infer"


async def test_models_and_metadata(call: Any) -> None:
    assert await call("models") == ("mnist",)
    metadata = await call("model", model=None, name="mnist")
    assert metadata.versions == ("1",)
    assert metadata.inputs[0].shape == (-1, 1, 28, 28)
    assert await call("model") == metadata


async def test_a_call_without_a_model_says_how_to_name_one(call: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="no model named; say Client"):
        await call("predict", [0], model=None)


@pytest.mark.parametrize("probe", ["live", "ready"])
async def test_probes_ask_once_and_never_raise_for_an_absent_service(
    call: Any, service: FakeService, probe: str
) -> None:
    assert await call(probe)
    service.script.extend([httpx2.Response(503), httpx2.ConnectError("refused")])
    assert not await call(probe)
    assert not await call(probe)
    assert [request.url.path for request in service.requests] == [f"/v2/health/{probe}"] * 3


async def test_retries_are_made_and_end(call: Any, service: FakeService) -> None:
    service.script.extend([httpx2.ReadTimeout("slow"), httpx2.ConnectError("refused")])
    assert (await call("predict", [0])).predictions
    assert len(service.requests) == 3
    service.script.extend([httpx2.ReadTimeout("slow")] * 4)
    with pytest.raises(RequestTimeoutError, match="http://host did not answer in time"):
        await call("predict", [0])
    assert len(service.requests) == 7


@pytest.mark.parametrize("url", ["http://host:port", "localhost:8000"])
def test_a_url_that_is_none_is_a_wrong_argument(url: str) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a URL such as http"), Client(url) as client:
        client.models()


def test_both_clients_have_the_same_methods_and_arguments() -> None:
    def surface(client: type) -> dict[str, list[tuple[str, object]]]:
        return {
            name.replace("aclose", "close"): [(p.name, p.default) for p in inspect.signature(f).parameters.values()]
            for name, f in vars(client).items()
            if inspect.isfunction(f) and (name == "__init__" or not name.startswith("_"))
        }

    assert surface(Client) == surface(AsyncClient)


@pytest.mark.parametrize("client", [Client, AsyncClient])
async def test_the_key_is_sent_with_every_request(client: Any, service: FakeService) -> None:
    made = client("http://host", "mnist", api_key="k-1", headers={"Authorization": "other", "x-trace": "t"},
                  transport=httpx2.MockTransport(service))  # fmt: skip
    for method in ("models", "ready"):
        result = getattr(made, method)()
        if inspect.isawaitable(result):
            await result
    assert [request.headers["authorization"] for request in service.requests] == ["Bearer k-1"] * 2
    assert {request.headers["x-trace"] for request in service.requests} == {"t"}


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("key", ["", "secret\n", "se cret", "sécret"])
def test_what_cannot_be_a_key_is_refused_without_repeating_it(client: Any, key: str) -> None:
    with pytest.raises(InvalidArgumentError, match="API key") as caught:
        client("http://host", api_key=key)
    assert "cret" not in str(caught.value)
