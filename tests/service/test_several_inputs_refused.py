"""What models of an image and a recording refuse, and how it is told."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.service.senses import INFER, PREDICT, b64, infer_body, instances, png, predict_body, wav

from softrisk_core.bundle import MANIFEST, RADIUS, file_entry, load_bundle
from softrisk_service.errors import NotServableError
from softrisk_service.runtime import Runtime
from softrisk_service.schemas import Problem
from softrisk_service.settings import Settings


@pytest.fixture(scope="session")
def repository(senses: Path) -> Path:
    """What the shared fixtures serve here."""
    return senses


SOUND = instances(7, 1)["audio"][0]
IMAGE = instances(7, 1)["image"][0].tolist()
GOOD = b64(wav(SOUND))
EITHER = "image (may be left out), audio (may be left out)"

BAD: list[tuple[str, object, str]] = [
    # recordings
    ("spoken", [b64(wav(SOUND, rate=16000))], "16000 samples a second, and the model takes 8000"),
    ("spoken", [b64(wav(SOUND, channels=2))], "2 channels, and the model takes one"),
    ("spoken", [b64(wav(np.tile(SOUND, 2)))], "160 samples, 0.02 s, and the model takes at most 80, 0.01 s"),
    ("spoken", [b64(wav(np.zeros(80, np.float32)))], "the recording is silent"),
    ("spoken", [b64(wav(SOUND)[:-60])], "the recording is truncated"),
    ("spoken", [b64(wav(SOUND)[:20])], "the recording is truncated"),
    ("spoken", [b64(png(np.ones((1, 8, 8), np.float32)))], "not a WAV file"),
    ("spoken", [GOOD, b64(b"")], "instances[1]: input 'audio': the data is not a WAV file"),
    ("spoken", [{"audio": GOOD}], 'expected an object {"b64": "…"}, got one with [\'audio\']'),
    ("spoken", [[2.0] * 80], "values in [-1, 1], got 2"),
    ("senses", [{"audio": b64(wav(SOUND, rate=44100))}], "instances[0].audio: input 'audio': the recording has 44100"),
    ("senses", [{"image": GOOD}], "instances[0].image: input 'image': the data is not a PNG or JPEG"),
    # names
    ("senses", [{"audio": GOOD}, {}], f"instances[1]: expected at least one of the inputs {EITHER}, got none"),
    ("senses", [{"sound": GOOD}], f"instances[0]: 'sound' is not an input; inputs: {EITHER}"),
    ("senses", [GOOD], 'a file goes by the name of its input, as in {"image": {"b64": "…"}}; inputs: image'),
    ("senses", [{"image": None, "audio": GOOD}], "input 'image': instances[0].image: expected a list of shape"),
    ("senses", [IMAGE], f"instances[0]: expected an object with the inputs {EITHER}, got a list of 1"),
    (
        "needed",
        [{"image": IMAGE}],
        "instances[0]: the input 'audio' is missing, and the model was not made to go without it; "
        "expected image, audio, got image",
    ),
    ("needed", [{"image": IMAGE, "audio": GOOD}, {"audio": GOOD}], "instances[1]: the input 'image' is missing"),
]


@pytest.mark.parametrize(("model", "sent", "named"), BAD, ids=map(str, range(len(BAD))))
def test_bad_instances_are_refused_by_name(post: Any, model: str, sent: object, named: str) -> None:
    response = post(f"/v1/models/{model}:predict", predict_body(sent))
    Problem.model_validate(response.json())
    assert response.status_code == 422
    assert named in response.json()["detail"]
    assert len(response.json()["detail"]) < 400


@pytest.mark.parametrize(
    ("model", "media", "named"),
    [
        ("spoken", "image/png", "'image/png' is not accepted here; accepted: application/json, audio/wav"),
        ("needed", "audio/wav", "a model with 2 inputs takes application/json, not audio/wav"),
        ("senses", "application/x-npy", "a model with 2 inputs takes application/json, not application/x-npy"),
        ("senses", "audio/mpeg", "audio/wav"),
    ],
)
def test_files_for_no_input_are_refused_by_their_type(post: Any, model: str, media: str, named: str) -> None:
    response = post(f"/v1/models/{model}:predict", wav(SOUND), content_type=media)
    assert (response.status_code, response.json()["status"]) == (415, 415)
    assert named in response.json()["detail"]


PAIRS = instances(8, 3)


@pytest.mark.parametrize(
    ("model", "body", "named"),
    [
        (
            "senses",
            infer_body(PAIRS | {"image": PAIRS["image"][:2]}),
            "expected the same number of instances in all of them, but 'image' has 2, 'audio' has 3",
        ),
        ("senses", b'{"inputs": []}', "expected at least one of image, audio, got none"),
        ("senses", infer_body({"sound": PAIRS["audio"]}), "'sound' is not an input, or came before; inputs: image, au"),
        ("needed", infer_body({"image": PAIRS["image"]}), "'audio' is missing, and the model was not made to go with"),
        ("senses", infer_body(PAIRS, outputs=[{"name": "radius"}]), "'radius' is not an output; outputs: logits, "),
    ],
)
def test_wrong_sets_of_tensors_are_refused_by_name(post: Any, model: str, body: bytes, named: str) -> None:
    response = post(f"/v2/models/{model}/infer", body)
    assert response.status_code == 422
    assert named in response.json()["error"]


def test_a_raw_binary_request_names_no_input(post: Any) -> None:
    response = post(INFER, PAIRS["audio"].tobytes(), inference_header_content_length="0")
    assert response.status_code == 422
    assert "a model with 2 inputs takes no raw binary request" in response.json()["error"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=3) | st.just(GOOD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["b64", "image", "audio"]), inner),
    max_leaves=8,
)


@given(instance=VALUES | st.fixed_dictionaries({}, optional={"image": VALUES, "audio": VALUES}))
@settings(max_examples=60, deadline=None)
def test_no_instance_is_a_fault_of_ours(post: Any, instance: object) -> None:
    assert post(PREDICT, predict_body([instance])).status_code in (200, 422)


@given(place=st.integers(0, 50), byte=st.integers(0, 255), length=st.integers(0, 220))
@settings(max_examples=60, deadline=None)
def test_no_recording_is_a_fault_of_ours(post: Any, place: int, byte: int, length: int) -> None:
    file = bytearray(wav(SOUND))
    file[place] = byte
    response = post("/v1/models/spoken:predict", bytes(file[:length]), content_type="audio/wav")
    assert response.status_code in (200, 422)


async def test_recordings_of_a_request_share_a_sample_budget(senses: Path, serve: Any) -> None:
    file, media = b64(wav(SOUND[:5])), {"content-type": "audio/wav"}
    async with serve(senses, max_samples=400) as running:
        assert (await running.post(PREDICT, {"instances": [{"audio": file}] * 5})).status_code == 200
        refused = await running.post(PREDICT, {"instances": [{"audio": file}] * 6})
        assert refused.status_code == 413
        assert "480 samples together" in refused.json()["detail"]
    async with serve(senses, max_samples=79, max_body_bytes=300, max_json_bytes=300) as running:
        for content in (wav(SOUND), wav(np.tile(SOUND, 2))):  # too many samples, too many bytes
            assert (await running.client.post(PREDICT, content=content, headers=media)).status_code == 413


def test_a_radius_that_is_not_the_one_of_its_constants_is_not_served(senses: Path, tmp_path: Path) -> None:
    folder = tmp_path / "senses" / "1"
    shutil.copytree(senses / "senses/1", folder)
    constants = load_bundle(folder).lipschitz()
    with (folder / RADIUS).open("wb") as file:
        np.savez(file, certified=1.001 * constants["certified"], estimated=constants["estimated"])
    document = json.loads((folder / MANIFEST).read_bytes())
    document["files"][RADIUS] = file_entry(folder / RADIUS).model_dump()
    (folder / MANIFEST).write_bytes(orjson.dumps(document))
    with pytest.raises(NotServableError, match="certified_radius is not what the Lipschitz constants give"):
        Runtime(load_bundle(folder), Settings(threads=1))
