"""`softrisk predict`, as a user and as a script meet it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest
import stamina.instrumentation
from typer.testing import CliRunner

from softrisk_client.cli import app

if TYPE_CHECKING:
    from tests.clients.conftest import FakeService

PNG = b"\x89PNG\r\n\x1a\n"
COARSE = {"label": 7, "class_name": "seven", "risk": {"decision": "review", "flagged": True}}
NONE = {"label": 7, "class_name": "seven"}


@pytest.fixture(autouse=True)
def _hooks_of_stamina_restored() -> Iterator[None]:
    yield
    stamina.instrumentation.set_on_retry_hooks(None)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    Path("seven[x].png").write_bytes(PNG + b"pixels")
    Path("odd.png").write_bytes(PNG + b"odd pixels")
    Path("zip.png").write_bytes(b"PK")
    return tmp_path


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def cells(line: str) -> list[str]:
    return line.split()


@pytest.mark.usefixtures("on_the_network")
def test_accepted_images_make_a_table_and_status_0() -> None:
    status, out, err = run("seven[x].png", "seven[x].png")
    assert (status, err) == (0, "")
    rows = [cells(line) for line in out.splitlines() if "seven[x].png" in line]
    assert rows == [["seven[x].png", "seven", "0.9987", "8.1000", "0.6900", "accept"]] * 2
    assert "mnist version 1, flag at α = 0.01" in out


@pytest.mark.usefixtures("on_the_network")
def test_a_flagged_image_is_status_3() -> None:
    status, out, err = run("seven[x].png", "odd.png")
    assert (status, err) == (3, "")
    (row,) = [cells(line) for line in out.splitlines() if "odd.png" in line]
    assert row[-2:] == ["0.0010", "reject"]


def test_alpha_and_version_are_sent_and_the_flag_is_shown(on_the_network: FakeService) -> None:
    status, out, _ = run("odd.png", "--alpha", "0.05", "--model", "mnist", "--version", "3")
    assert status == 3
    assert "flagged" in out
    (row,) = [cells(line) for line in out.splitlines() if "odd.png" in line]
    assert row[-1] == "yes"
    assert on_the_network.body["parameters"] == {"alpha": 0.05}
    assert [request.url.path for request in on_the_network.requests] == ["/v1/models/mnist/versions/3:predict"]
    _, out, _ = run("seven[x].png", "--alpha", "0.05")
    (row,) = [cells(line) for line in out.splitlines() if "seven[x].png" in line]
    assert row[-1] == "no"


@pytest.mark.usefixtures("on_the_network")
def test_one_bad_file_does_not_lose_the_other_answers() -> None:
    Path("images").mkdir()
    status, out, err = run("missing.png", "zip.png", "images", "odd.png")
    assert status == 1
    assert err.splitlines() == [
        "missing.png: No such file or directory",
        "zip.png: 422 Refused: not an image",
        "images is a folder: name files",
    ]
    assert "odd.png" in out


def test_the_files_of_several_inputs_are_one_instance(on_the_network: FakeService) -> None:
    inputs = ("--model", "digits", "--input", "image=seven[x].png", "--input", "audio=7=seven.wav")
    Path("7=seven.wav").write_bytes(b"RIFF....WAVE")
    status, out, err = run(*inputs)
    assert (status, err) == (0, "")
    assert list(on_the_network.body["instances"][0]) == ["image", "audio"]
    (row,) = [cells(line) for line in out.splitlines() if ".wav" in line]
    assert row == ["seven[x].png,", "7=seven.wav", "seven", "0.9987", "8.1000", "0.6900", "0.5000", "accept"]
    assert "certified radius" in out
    answer = json.loads(run(*inputs, "--json")[1])
    assert answer["files"] == {"image": "seven[x].png", "audio": "7=seven.wav"}
    assert answer["radius"]["inputs"]["audio"] == {"certified": 2.5}


@pytest.mark.usefixtures("on_the_network")
def test_a_fault_of_several_inputs_names_their_files() -> None:
    assert run("--model", "digits", "--input", "audio=odd.png") == (
        1,
        "",
        "odd.png: 422 Refused: input 'audio': not such a file\n",
    )
    assert run("--model", "digits", "--input", "audio=none.wav")[2] == "none.wav: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name files, or --input NAME=FILE"),
        (("odd.png", "--input", "image=odd.png"), "and not both"),
        (("--input", "odd.png"), "expected NAME=FILE"),
        (("--input", "image="), "expected NAME=FILE"),
        (("--input", "image=odd.png", "--input", "image=odd.png"), "there is a file for image already"),
    ],
)
def test_what_is_to_be_sent_must_be_clear(arguments: tuple[str, ...], said: str) -> None:
    status, _, err = run(*arguments)
    assert status == 2
    assert said in " ".join(err.replace("│", " ").split())


@pytest.mark.usefixtures("on_the_network")
def test_long_paths_are_shortened_to_names_that_tell_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folders = [Path("a-folder-of-many-images"), Path("another-folder-of-images")]
    for folder in folders:
        folder.mkdir()
        (folder / "same.png").write_bytes(PNG + b"pixels")
    _, out, _ = run(str(folders[0] / "same.png"), "odd.png", "--alpha", "0.05")
    assert [cells(line)[0] for line in out.splitlines() if ".png" in line] == ["same.png", "odd.png"]
    assert max(map(len, out.splitlines())) <= 80
    _, out, _ = run(*(str(folder / "same.png") for folder in folders))
    assert all(folder.name in out for folder in folders)


@pytest.mark.usefixtures("on_the_network")
def test_json_is_one_object_per_line() -> None:
    status, out, _ = run("seven[x].png", "missing.png", "odd.png", "--json")
    assert status == 1
    first, second = map(json.loads, out.splitlines())
    assert (first["file"], first["model_name"], first["model_version"]) == ("seven[x].png", "mnist", "1")
    assert first["risk"]["decision"] == "accept"
    assert second["risk"]["p_value"] == 0.001


def test_without_a_name_there_must_be_exactly_one_model(on_the_network: FakeService) -> None:
    on_the_network.models = ["cifar", "mnist"]
    assert run("odd.png") == (1, "", "the service has several models; choose one with --model: cifar, mnist\n")
    on_the_network.models = []
    assert run("odd.png") == (1, "", "the service has no model\n")


def test_a_failing_service_ends_the_run_with_what_was_answered(on_the_network: FakeService) -> None:
    models = httpx2.Response(200, json={"models": ["mnist"]})
    answer = httpx2.Response(200, json={"model_name": "m", "model_version": "1", "predictions": [COARSE]})
    on_the_network.script.extend([models, answer, *[httpx2.ConnectError("[Errno 111] Connection refused")] * 4])
    status, out, err = run("odd.png", "seven[x].png", "seven[x].png")
    assert (status, err) == (
        1,
        "cannot reach http://127.0.0.1:8000 (connection refused): is `softrisk serve` running there? see --url\n",
    )
    assert "odd.png" in out
    assert "seven[x].png" not in out


def test_a_retry_leaves_standard_output_to_the_answers(on_the_network: FakeService) -> None:
    on_the_network.script.append(httpx2.Response(503))
    status, out, err = run("seven[x].png", "--json")
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 1


def test_coarse_disclosure_is_shown_as_far_as_it_goes(on_the_network: FakeService) -> None:
    on_the_network.odd = COARSE
    status, out, _ = run("odd.png")
    assert status == 3
    (row,) = [cells(line) for line in out.splitlines() if "odd.png" in line]
    assert row == ["odd.png", "seven", "–", "–", "–", "review"]


def test_the_key_comes_from_the_environment_or_an_option(
    on_the_network: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTRISK_API_KEY", "k-1")
    assert run("odd.png", "--model", "mnist")[0] == 3
    assert run("odd.png", "--model", "mnist", "--api-key", "k-2")[0] == 3
    assert [request.headers["authorization"] for request in on_the_network.requests] == ["Bearer k-1", "Bearer k-2"]


def test_without_disclosure_nothing_passes(on_the_network: FakeService) -> None:
    on_the_network.odd = NONE
    for options in ([], ["--alpha", "0.05"]):
        status, out, err = run("odd.png", *options)
        assert (status, err) == (
            1,
            "the service does not disclose flag and decision to this caller; ask its operator\n",
        )
        assert "seven" in out
