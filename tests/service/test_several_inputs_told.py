"""Models of an image and a recording, as clients, operators, and callers without full disclosure see them."""

import json
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from tests.service.senses import INFER, PREDICT, RADII, check, infer_body, instances, png, predict_body, wav
from tritonclient.http import InferenceServerClient, InferInput
from typer.testing import CliRunner

from softrisk_client import AsyncClient, cli
from softrisk_core.manifest import OUTPUTS
from softrisk_service.callers import Callers
from softrisk_service.schemas import ModelMetadata

LABELS = {"model": "senses", "version": "1"}


async def test_metadata_tell_what_can_be_sent_and_got(senses: Path, serve: Any) -> None:
    async with serve(senses) as running:
        metadata = (await running.client.get("/v2/models/senses")).json()
        ModelMetadata.model_validate(metadata)
        spoken = (await running.client.get("/v2/models/spoken")).json()
    assert [(tensor["name"], tensor["shape"]) for tensor in metadata["inputs"]] == [
        ("image", [-1, 1, 8, 8]),
        ("audio", [-1, 80]),
    ]
    assert [tensor["name"] for tensor in metadata["outputs"]] == [*OUTPUTS, *RADII]
    told = metadata["parameters"]
    assert (told["optional_inputs"], told["sample_rate_audio"]) == ("image,audio", 8000)
    assert (told["radius_norm"], told["radius_space_image"], told["radius_space_audio"]) == ("l2", "pixels", "samples")
    assert "optional_inputs" not in spoken["parameters"]


@pytest.mark.parametrize("level", ["coarse", "none"])
async def test_the_radius_is_for_full_disclosure_alone(
    senses: Path, serve: Any, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    inputs = instances(9, 1)
    sent = {name: values[0].tolist() for name, values in inputs.items()}
    async with serve(senses) as running:
        monkeypatch.setattr(Callers, "disclosure", lambda *_: level)
        answer = await running.post(PREDICT, {"instances": [sent]})
        inferred = await running.client.post(INFER, content=infer_body(inputs))
        wanted = infer_body(inputs, outputs=[{"name": "certified_radius"}])
        refused = await running.client.post(INFER, content=wanted)
        metadata = (await running.client.get("/v2/models/senses")).text
    assert answer.status_code == inferred.status_code == 200
    assert refused.status_code == 403
    assert not any("radius" in text for text in (answer.text, inferred.text, metadata))


async def test_metrics_agree_with_the_answers(senses: Path, serve: Any, reference: Any) -> None:
    inputs = instances(10, 40)
    inputs["audio"][:15] = 0
    expected = reference(inputs)
    async with serve(senses) as running:
        sent = [{"image": inputs["image"][row].tolist(), "audio": inputs["audio"][row].tolist()} for row in range(40)]
        assert (await running.client.post(PREDICT, content=predict_body(sent))).status_code == 200
        # What comes as zeros is missing, too.
        assert running.value("softrisk_inputs_total", **LABELS, input="audio", presence="missing") == 15
        assert running.value("softrisk_inputs_total", **LABELS, input="image", presence="present") == 40
        for bound in (0.01, 0.1, 0.25, 0.5, 1):
            counted = running.value("softrisk_certified_radius_bucket", **LABELS, le=str(float(bound)))
            assert counted == (expected["certified_radius"] <= bound).sum()
        assert running.value("softrisk_certified_radius_count", **LABELS) == 40
        for other in ("needed", "long"):
            none = {"model": other, "version": "1"}
            assert running.value("softrisk_certified_radius_count", **none) is None
            assert running.value("softrisk_inputs_total", **none, input="audio", presence="missing") is None


async def test_the_client_sends_files_and_reads_the_radius(
    senses: Path, serve: Any, reference: Any, tmp_path: Path
) -> None:
    inputs = instances(11, 1)
    (tmp_path / "7.png").write_bytes(png(inputs["image"][0]))
    (tmp_path / "seven.wav").write_bytes(wav(inputs["audio"][0]))
    expected = reference(inputs)
    async with serve(senses) as running:
        transport = httpx2.ASGITransport(running.app)
        async with AsyncClient("http://service", "senses", transport=transport) as client:
            both = {"image": str(tmp_path / "7.png"), "audio": tmp_path / "seven.wav"}
            mixed = {"image": (tmp_path / "7.png").read_bytes(), "audio": inputs["audio"][0]}
            for sent in (both, [both], [mixed]):
                radius = (await client.predict(sent)).predictions[0].radius
                assert radius is not None
                assert radius.inputs is not None
                assert radius.certified == pytest.approx(expected["certified_radius"][0], rel=1e-4)
                heard = radius.inputs["audio"]
                assert heard.estimated == pytest.approx(expected["estimated_radius_audio"][0], rel=1e-4)
            answer = await client.predict({"audio": both["audio"]})
    assert answer.predictions[0].label == reference({"audio": inputs["audio"]})["label"][0]


def test_the_command_and_the_client_of_triton(senses: Path, running: Any, reference: Any, tmp_path: Path) -> None:
    inputs = instances(12, 1)
    (tmp_path / "7.png").write_bytes(png(inputs["image"][0]))
    (tmp_path / "seven.wav").write_bytes(wav(inputs["audio"][0]))
    files = ["--input", f"image={tmp_path / '7.png'}", "--input", f"audio={tmp_path / 'seven.wav'}"]
    with running(senses) as server:
        asked = CliRunner().invoke(cli.app, [*files, "--url", server.url, "--model", "senses", "--json"])
        with InferenceServerClient(server.url.removeprefix("http://")) as triton:
            tensors = {
                name: InferInput(name, list(values.shape), "FP32").set_data_from_numpy(values)
                for name, values in inputs.items()
            }
            both, heard = triton.infer("senses", list(tensors.values())), triton.infer("senses", [tensors["audio"]])
    check(json.loads(asked.stdout), reference(inputs), 0)
    for result, sent in ((both, inputs), (heard, {"audio": inputs["audio"]})):
        for name in RADII:
            np.testing.assert_allclose(result.as_numpy(name), reference(sent)[name], rtol=1e-4, atol=1e-6)
