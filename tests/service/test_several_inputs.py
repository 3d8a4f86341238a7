"""Models of an image and a recording, either of which may be missing: what callers send and get, both ways."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.service.senses import (
    INFER,
    PREDICT,
    RADII,
    b64,
    check,
    infer_binary,
    infer_body,
    instances,
    png,
    predict_body,
    wav,
)

from softrisk_core.manifest import OUTPUTS
from softrisk_service.routes.inference import InferenceRoute
from softrisk_service.schemas import InferResponse, PredictResponse


@pytest.fixture(scope="session")
def repository(senses: Path) -> Path:
    """What the shared fixtures serve here."""
    return senses


def test_files_lists_and_tensors_have_the_answer_of_the_graph(post: Any, reference: Any) -> None:
    inputs = instances(1, 3)
    expected = reference(inputs)
    rows = [(inputs["image"][row], inputs["audio"][row]) for row in range(3)]
    files = [{"image": b64(png(image)), "audio": b64(wav(audio))} for image, audio in rows]
    lists = [{"audio": audio.tolist(), "image": image.tolist()} for image, audio in rows]
    for sent in (files, lists, [files[0], lists[1], {"image": lists[2]["image"], "audio": files[2]["audio"]}]):
        answer = post(PREDICT, predict_body(sent)).json()
        PredictResponse.model_validate(answer)
        for row, prediction in enumerate(answer["predictions"]):
            check(prediction, expected, row)
    body, headers = infer_binary(inputs)
    backwards = dict(reversed(inputs.items()))
    for response in (post(INFER, infer_body(inputs)), post(INFER, infer_body(backwards)), post(INFER, body, **headers)):
        answer = response.json()
        InferResponse.model_validate(answer)
        assert [output["name"] for output in answer["outputs"]] == [*OUTPUTS, *RADII]
        for output in answer["outputs"]:
            np.testing.assert_allclose(
                output["data"], expected[output["name"]].ravel(), rtol=1e-4, atol=1e-5, err_msg=output["name"]
            )


@pytest.mark.parametrize("there", ["image", "audio"])
def test_an_input_that_is_left_out_is_missing(post: Any, reference: Any, there: str) -> None:
    inputs = {there: instances(2, 2)[there]}
    expected = reference(inputs)
    sent = predict_body([{there: row.tolist()} for row in inputs[there]])
    for row, prediction in enumerate(post(PREDICT, sent).json()["predictions"]):
        check(prediction, expected, row)
        missing = ({"image", "audio"} - {there}).pop()
        assert prediction["radius"]["inputs"][missing] == {"certified": 0, "estimated": 0}
    wanted = [{"name": name} for name in ("rank", "certified_radius")]
    body, headers = infer_binary(inputs)
    for response in (post(INFER, infer_body(inputs, outputs=wanted)), post(INFER, body, **headers)):
        outputs = {output["name"]: output["data"] for output in response.json()["outputs"]}
        assert outputs["rank"] == expected["rank"].tolist()
        assert outputs["certified_radius"] == pytest.approx(expected["certified_radius"], rel=1e-4, abs=1e-6)


def test_one_request_may_mix_what_is_missing(post: Any, reference: Any) -> None:
    inputs = instances(3, 3)
    inputs["image"][1] = 0
    inputs["audio"][2] = 0
    sent = [
        {"image": b64(png(inputs["image"][0])), "audio": b64(wav(inputs["audio"][0]))},
        {"audio": inputs["audio"][1].tolist()},
        {"image": b64(png(inputs["image"][2])), "audio": b64(wav(inputs["audio"][2]))},  # silence
    ]
    expected = reference(inputs)
    for row, prediction in enumerate(post(PREDICT, predict_body(sent)).json()["predictions"]):
        check(prediction, expected, row)


@pytest.mark.parametrize("sockets", [False, True])
async def test_requests_that_lack_different_inputs_share_batches(
    senses: Path, serve: Any, reference: Any, sockets: bool
) -> None:
    whole = instances(4, 60)
    kinds: list[tuple[str, ...]] = [("image", "audio"), ("image",), ("audio",)]

    async def ask(row: int) -> None:
        inputs = {name: whole[name][row : row + 1] for name in kinds[row % 3]}
        expected = reference(inputs)
        if row % 2:
            sent = predict_body([{name: values[0].tolist() for name, values in inputs.items()}])
            check((await running.client.post(PREDICT, content=sent)).json()["predictions"][0], expected, 0)
        else:
            sent = infer_body(inputs, outputs=[{"name": "rank"}, {"name": "label"}])
            outputs = (await running.client.post(INFER, content=sent)).json()["outputs"]
            assert [output["data"] for output in outputs] == [expected["rank"].tolist(), expected["label"].tolist()]

    async with serve(senses, sockets=sockets) as running:
        await asyncio.gather(*map(ask, range(60)))
        labels = {"model": "senses", "version": "1"}
        assert running.value("softrisk_batch_size_sum", **labels) == 60
        assert running.value("softrisk_batch_size_count", **labels) < 60
        for name in ("image", "audio"):
            assert running.value("softrisk_inputs_total", **labels, input=name, presence="present") == 40
            assert running.value("softrisk_inputs_total", **labels, input=name, presence="missing") == 20


async def test_lists_and_tensors_take_the_short_way(senses: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary: list[str] = []
    answer = InferenceRoute.answer

    async def noted(self: InferenceRoute, request: Any, target: Any) -> Any:
        ordinary.append(request.headers["content-type"])
        return await answer(self, request, target)

    monkeypatch.setattr(InferenceRoute, "answer", noted)
    inputs = instances(3, 1)
    audio = inputs["audio"][0]
    body, headers = infer_binary({"audio": inputs["audio"]})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with serve(senses, sockets=True) as running:
        answers = [
            await running.post(PREDICT, {"instances": [{"audio": audio.tolist()}]}),
            await running.client.post(INFER, content=infer_body(inputs)),
            await running.client.post(INFER, content=body, headers=named),
        ]
        assert ordinary == []
        answers.append(await running.post(PREDICT, {"instances": [{"audio": b64(wav(audio))}]}))
        answers.append(await running.client.post(PREDICT, content=wav(audio), headers={"content-type": "audio/wav"}))
        assert ordinary == ["application/json", "audio/wav"]
    assert [response.status_code for response in answers] == [200] * 5
    assert answers[0].json() == answers[3].json() == answers[4].json()


def test_a_file_alone_is_an_instance_where_all_else_may_be_missing(post: Any, reference: Any) -> None:
    inputs = instances(5, 1)
    image = post(PREDICT, png(inputs["image"][0]), content_type="image/png").json()["predictions"][0]
    check(image, reference({"image": inputs["image"]}), 0)
    for media in ("audio/wav", "audio/x-wav", "Audio/WAV"):
        audio = post(PREDICT, wav(inputs["audio"][0]), content_type=media).json()["predictions"][0]
        check(audio, reference({"audio": inputs["audio"]}), 0)


def test_a_model_of_one_recording(post: Any) -> None:
    samples = instances(6, 1)["audio"][0]
    path = "/v1/models/spoken:predict"
    raw = post(path, wav(samples), content_type="audio/wav").json()
    PredictResponse.model_validate(raw)
    assert raw == post(path, predict_body([b64(wav(samples))])).json()
    assert raw == post(path, predict_body([samples.tolist()])).json()
    (prediction,) = raw["predictions"]
    assert prediction["radius"]["space"] == {"audio": "samples"}
    assert "inputs" not in prediction["radius"]
    assert post("/v2/models/spoken/infer", samples.tobytes(), inference_header_content_length="0").status_code == 200
    # A shorter one is followed by silence; a longer one is cut where the model says so.
    padded = np.concatenate([samples[:50], np.zeros(30, np.float32)])
    short = post(path, wav(samples[:50]), content_type="audio/wav").json()
    assert short == post(path, predict_body([padded.tolist()])).json()
    cut = post("/v1/models/long:predict", wav(np.tile(samples, 2)), content_type="audio/wav").json()
    assert cut == post("/v1/models/long:predict", predict_body([samples.tolist()])).json()


def test_where_nothing_may_be_missing_and_nothing_is_bounded(post: Any) -> None:
    inputs = {name: values[0].tolist() for name, values in instances(3, 1).items()}
    answer = post("/v1/models/needed:predict", predict_body([inputs])).json()
    PredictResponse.model_validate(answer)
    assert "radius" not in answer["predictions"][0]
