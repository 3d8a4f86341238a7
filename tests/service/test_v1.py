"""KServe V1: what a caller sends and gets."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from softrisk_core.conformal import rank_limit
from softrisk_core.diagnostics import DIAGNOSTICS, diagnose
from softrisk_service.schemas import PredictResponse

Pixels = Callable[[int, int], NDArray[np.float32]]

GOLDEN = Path(__file__).parent / "golden"
PREDICT = "/v1/models/tiny:predict"


def encoded(image: NDArray[np.float32], form: str = "PNG") -> bytes:
    """A (1, 4, 4) input as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(image[0] * 255).astype(np.uint8)).save(buffer, form)
    return buffer.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def close(document: Any) -> Any:
    """The document with its floats approximate, for comparison."""
    if isinstance(document, dict):
        return {name: close(value) for name, value in document.items()}
    if isinstance(document, list):
        return [close(value) for value in document]
    return pytest.approx(document, rel=1e-5, abs=1e-7) if isinstance(document, float) else document


async def test_the_golden_request_has_the_golden_answer(service: Any) -> None:
    request = json.loads((GOLDEN / "v1_request.json").read_text())
    response = await service.post("/v1/models/tiny/versions/1:predict", request)
    expected = json.loads((GOLDEN / "v1_response.json").read_text())
    assert response.status_code == 200
    assert response.json() == close(expected["body"])
    assert response.headers["x-adversarial-risk"] == expected["x-adversarial-risk"]


async def test_an_answer_carries_label_diagnostics_and_risk(service: Any, images: Pixels) -> None:
    response = await service.post(PREDICT, {"instances": images(40, 5).tolist()})
    answer = response.json()
    PredictResponse.model_validate(answer)
    assert (answer["model_name"], answer["model_version"]) == ("tiny", "2")
    flagged = 0
    for prediction in answer["predictions"]:
        risk, probabilities = prediction["risk"], prediction["probabilities"]
        assert prediction["class_name"] == ("ant", "bee", "cat", "dog")[prediction["label"]]
        assert prediction["confidence"] == max(probabilities) == probabilities[prediction["label"]]
        reference = diagnose(np.log(np.array([probabilities])))
        for name in set(DIAGNOSTICS) - {"max_logit", "energy"}:
            assert prediction["diagnostics"][name] == pytest.approx(reference[name][0], abs=2e-4)
        assert risk["p_value"] == risk["rank"] / 200
        assert risk["score"] == pytest.approx(1 - risk["p_value"], abs=1e-15)
        assert risk["flagged"] == (risk["rank"] <= 10) == (risk["decision"] != "accept")
        assert risk["nonconformity"] == -prediction["diagnostics"]["logit_gap"]
        flagged += risk["flagged"]
    highest = max(prediction["risk"]["score"] for prediction in answer["predictions"])
    assert response.headers["x-adversarial-risk"] == f"max={highest:.6g}; flagged={flagged}"
    assert flagged > 0


async def test_alpha_and_guarantee_move_the_flag_but_not_the_decision(service: Any, images: Pixels) -> None:
    body: dict[str, Any] = {"instances": images(60, 5).tolist()}
    default = (await service.post(PREDICT, body)).json()["predictions"]
    for alpha, guarantee in ((0.5, "marginal"), (0.5, "confident"), (0.05, "confident"), (0.005, "marginal")):
        response = await service.post(PREDICT, body | {"parameters": {"alpha": alpha, "guarantee": guarantee}})
        predictions = response.json()["predictions"]
        limit = rank_limit(alpha, 199, "confident" if guarantee == "confident" else "marginal")
        assert [p["risk"]["flagged"] for p in predictions] == [p["risk"]["rank"] <= limit for p in default]
        assert [p["risk"]["decision"] for p in predictions] == [p["risk"]["decision"] for p in default]
        assert {p["risk"]["alpha"] for p in predictions} == {alpha}


async def test_probabilities_can_be_left_out(service: Any, images: Pixels) -> None:
    body = {"instances": images(1, 5).tolist(), "parameters": {"probabilities": False}}
    prediction = (await service.post(PREDICT, body)).json()["predictions"][0]
    assert "probabilities" not in prediction
    assert "confidence" in prediction


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
async def test_npy_gives_the_answer_of_json(service: Any, images: Pixels, dtype: str, order: Any) -> None:
    array = images(3, 5)
    expected = await service.post(PREDICT, {"instances": array.tolist()})
    body = npy(np.asarray(array, dtype=dtype, order=order))
    response = await service.client.post(PREDICT, content=body, headers={"content-type": "application/x-npy"})
    assert response.json() == expected.json()


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
async def test_an_image_gives_the_answer_of_its_pixels(service: Any, images: Pixels, form: str) -> None:
    data = encoded(images(1, 5)[0], form)
    decoded = np.asarray(Image.open(io.BytesIO(data)), np.float32)[None, None] / 255
    expected = await service.post(PREDICT, {"instances": decoded.tolist()})
    raw = await service.client.post(PREDICT, content=data, headers={"content-type": f"image/{form.lower()}"})
    assert raw.json() == expected.json()
    body = {"instances": [{"b64": base64.b64encode(data).decode()}, decoded[0].tolist()]}
    mixed = (await service.post(PREDICT, body)).json()["predictions"]
    assert mixed[0]["risk"] == mixed[1]["risk"] == expected.json()["predictions"][0]["risk"]


async def test_a_model_with_two_inputs_takes_objects(service: Any, images: Pixels) -> None:
    image, sound = images(1, 5)[0], [0.25, 0.5]
    data = base64.b64encode(encoded(np.round(image))).decode()
    body = {
        "instances": [{"image": np.round(image).tolist(), "sound": sound}, {"sound": sound, "image": {"b64": data}}]
    }
    predictions = (await service.post("/v1/models/both:predict", body)).json()["predictions"]
    assert predictions[0] == predictions[1]
    for media in ("image/png", "application/x-npy"):
        refused = await service.client.post("/v1/models/both:predict", content=b"", headers={"content-type": media})
        assert refused.status_code == 415


async def test_an_input_without_images_takes_no_encoded_files(service: Any, images: Pixels) -> None:
    data = base64.b64encode(encoded(images(1, 5)[0])).decode()
    body = {"instances": [{"image": {"b64": data}, "sound": {"b64": data}}]}
    response = await service.post("/v1/models/both:predict", body)
    assert response.status_code == 422
    assert "instances[0].sound: input 'sound' takes no encoded files" in response.json()["detail"]


async def test_models_and_their_state(service: Any) -> None:
    assert (await service.client.get("/v1/models")).json() == {"models": ["both", "open", "tiny"]}
    assert (await service.client.get("/v1/models/tiny")).json() == {"name": "tiny", "ready": True}


async def test_paths_are_percent_decoded_and_get_is_not_predict(service: Any, images: Pixels) -> None:
    body = {"instances": images(1, 5).tolist()}
    assert (await service.post("/v1/models/tiny%3Apredict", body)).status_code == 200
    assert (await service.post("/v1/models/%74iny/versions/1%3apredict", body)).json()["model_version"] == "1"
    for path in (PREDICT, "/v1/models/tiny%3Apredict", "/v1/models/tiny/versions/1:predict"):
        response = await service.client.get(path)
        assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_a_large_request_is_run_in_parts(repository: Path, serve: Any, images: Pixels) -> None:
    body = {"instances": images(50, 5).tolist()}
    async with serve(repository, max_batch_size=8) as small, serve(repository) as large:
        parts, whole = await small.post(PREDICT, body), await large.post(PREDICT, body)
        assert parts.json() == close(whole.json())
        assert small.value("softrisk_batch_size_count", model="tiny", version="2") == 7
