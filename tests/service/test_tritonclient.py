"""The official client of Triton works against the service unchanged, over a real server."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from softrisk_core.conformal import rank_limit
from softrisk_core.manifest import OUTPUTS

Pixels = Callable[[int, int], NDArray[np.float32]]
Run = Callable[..., AbstractContextManager[Any]]
Compression = str | None


@pytest.fixture(scope="module")
def client(repository: Path, running: Run) -> Iterator[Any]:
    with (
        running(repository) as server,
        InferenceServerClient(server.url.removeprefix("http://"), concurrency=4) as client,
    ):
        yield client


def tensor(name: str, array: NDArray[np.float32], *, binary: bool = True) -> Any:
    return InferInput(name, list(array.shape), "FP32").set_data_from_numpy(array, binary_data=binary)


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("nobody")
    server = client.get_server_metadata()
    assert server["name"] == "softrisk"
    assert "binary_tensor_data" in server["extensions"]
    model = client.get_model_metadata("tiny", "1")
    assert model["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 4, 4]}]
    assert [output["name"] for output in model["outputs"]] == list(OUTPUTS)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_every_way_of_sending_gives_the_same(
    client: Any, images: Pixels, binary_in: bool, binary_out: bool, packed: Compression
) -> None:
    array = images(3, 5)
    expected = client.infer("tiny", [tensor("image", array)])
    outputs = [InferRequestedOutput(name, binary_data=binary_out) for name in OUTPUTS]
    actual = client.infer(
        "tiny",
        [tensor("image", array, binary=binary_in)],
        outputs=outputs,
        request_compression_algorithm=packed,
        response_compression_algorithm=packed,
    )
    described = client.get_model_metadata("tiny")["outputs"]
    for name, output in zip(OUTPUTS, described, strict=True):
        values = actual.as_numpy(name)
        assert values.shape == (3, *output["shape"][1:])
        assert (output["datatype"] == "FP32") == (values.dtype == np.float32)
        assert np.array_equal(values, expected.as_numpy(name))
    assert np.array_equal(expected.as_numpy("flagged"), expected.as_numpy("rank") <= 10)


def test_outputs_are_filtered_and_ids_and_versions_are_told(client: Any, images: Pixels) -> None:
    outputs = [InferRequestedOutput("rank"), InferRequestedOutput("label", binary_data=False)]
    result = client.infer("tiny", [tensor("image", images(1, 5))], model_version="1", outputs=outputs, request_id="a-1")
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("a-1", "tiny", "1")
    assert [output["name"] for output in answer["outputs"]] == ["rank", "label"]
    assert result.as_numpy("rank").dtype == np.int64
    assert result.as_numpy("logits") is None


def test_parameters_are_passed(client: Any, images: Pixels) -> None:
    result = client.infer(
        "tiny", [tensor("image", images(40, 5))], parameters={"alpha": 0.5}, priority=1, timeout=10**6, sequence_id=3
    )
    assert result.get_response()["parameters"]["alpha"] == 0.5
    assert np.array_equal(result.as_numpy("flagged"), result.as_numpy("rank") <= rank_limit(0.5, 199))


def test_two_inputs(client: Any, images: Pixels) -> None:
    image, sound = tensor("image", images(2, 5)), tensor("sound", np.full((2, 2), 0.5, np.float32), binary=False)
    forth, back = client.infer("both", [image, sound]), client.infer("both", [sound, image])
    assert np.array_equal(forth.as_numpy("logits"), back.as_numpy("logits"))


def test_requests_that_overlap_get_their_own_answers(client: Any, images: Pixels) -> None:
    arrays = [images(1, seed) for seed in range(30)]
    waiting = [
        client.async_infer("tiny", [tensor("image", array)], request_id=str(index))
        for index, array in enumerate(arrays)
    ]
    for index, (pending, array) in enumerate(zip(waiting, arrays, strict=True)):
        result = pending.get_result()
        assert result.get_response()["id"] == str(index)
        alone = client.infer("tiny", [tensor("image", array)])
        assert np.allclose(result.as_numpy("logits"), alone.as_numpy("logits"), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "status", "message"),
    [
        (lambda c, x: c.infer("tiny", [tensor("image", x * 2)]), "422", "expected values in [0, 1]"),
        (
            lambda c, x: c.infer("tiny", [tensor("image", x[:, 0])]),
            "422",
            "expected shape [-1, 1, 4, 4], got [1, 4, 4]",
        ),
        (lambda c, x: c.infer("nobody", [tensor("image", x)]), "404", "no model 'nobody'"),
        (lambda c, x: c.infer("tiny", [tensor("image", x)], model_version="9"), "404", "no version '9'"),
        (lambda c, x: c.infer("tiny", [tensor("image", x)], parameters={"alfa": 1}), "422", "'alfa' is not known"),
        (
            lambda c, x: c.infer("tiny", [tensor("image", x)], outputs=[InferRequestedOutput("rank", class_count=2)]),
            "422",
            "'classification' is not known",
        ),
        (
            lambda c, _: c.infer("tiny", [InferInput("image", [1, 1, 4, 4], "FP32").set_shared_memory("region", 64)]),
            "422",
            "'shared_memory_region' is not known",
        ),
        (lambda c, _: c.get_model_metadata("nobody"), "404", "no model 'nobody'"),
    ],
)
def test_refusals_come_with_our_words(
    client: Any, images: Pixels, call: Callable[[Any, NDArray[np.float32]], Any], status: str, message: str
) -> None:
    array = np.ones_like(images(1, 5))
    with pytest.raises(InferenceServerException) as caught:
        call(client, array)
    assert caught.value.status() == status
    assert message in caught.value.message()
