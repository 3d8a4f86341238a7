"""Settings from the environment and from flags."""

from pathlib import Path
from typing import Any

import pytest
import typer.testing
from pydantic import ValidationError

from softrisk_service import cli
from softrisk_service.errors import ConfigurationError
from softrisk_service.settings import Settings


def test_the_environment_is_read_and_flags_override_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTRISK_PORT", "9001")
    monkeypatch.setenv("SOFTRISK_REPOSITORY", "elsewhere")
    assert (Settings().port, Settings().repository) == (9001, Path("elsewhere"))
    assert Settings(port=9002).port == 9002


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha_review": 0},
        {"alpha_review": 1.0},
        {"alpha_review": 0.01, "alpha_reject": 0.02},
        {"queue_size": 10, "max_instances": 11},
        {"max_body_bytes": 101, "max_bodies_bytes": 100},
        {"max_pixels": 0},
        {"max_batch_size": 0},
        {"deadline_seconds": 0},
        {"deadline_seconds": float("inf")},
        {"log_level": "loud"},
        {"prot": 1},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_every_setting_is_explained_and_has_a_flag() -> None:
    shown = typer.testing.CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "300"})
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert name == "repository" or f"--{name.replace('_', '-')}" in shown.output


def test_a_wrong_flag_or_folder_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_bundle: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/mine/1").mkdir(parents=True)
    make_bundle(tmp_path / "served")
    (tmp_path / "empty.json").write_text('{"keys": []}')
    for arguments, message in (
        ([str(tmp_path / "none")], "no model repository"),
        (["served", "--keys", "nowhere.json"], "nowhere.json cannot be read: No such file"),
        (["served", "--keys", "empty.json"], "empty.json holds no key: make one with softrisk keys add"),
        ([str(tmp_path)], f"holds no model: write one there with softrisk export --out {tmp_path}"),
        (["models/mine"], "models/mine is a model, not a repository: softrisk serve models"),
        ([str(tmp_path), "--alpha-review", "2"], "--alpha-review 2.0: Input should be less than 1"),
        ([str(tmp_path), "--alpha-review", "0.1", "--alpha-reject", "0.2"], "must not exceed"),
    ):
        result = typer.testing.CliRunner().invoke(cli.app, arguments)
        assert isinstance(result.exception, ConfigurationError)
        assert message in str(result.exception)


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("SOFTRISK_PORT", "tcp://10.0.0.1:8000", "enableServiceLinks: false"),
        ("SOFTRISK_PORT", "eighty", "valid integer"),
        ("SOFTRISK_ACCESS_LOG", "perhaps", "valid boolean"),
        ("SOFTRISK_ALPHA_REVIEW", "2", "less than 1"),
    ],
)
def test_a_wrong_environment_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    monkeypatch.setenv(variable, value)
    result = typer.testing.CliRunner().invoke(cli.app, [])
    assert isinstance(result.exception, ConfigurationError)
    assert f"{variable}={value}" in str(result.exception)
    assert named in str(result.exception)


def test_defaults_are_shown_as_they_are_written_on_the_command_line() -> None:
    shown = " ".join(typer.testing.CliRunner().invoke(cli.app, ["--help"]).output.split())
    for default in ("access-log", "8000", "models"):
        assert f"[default: {default}]" in shown
    for python in (True, False, None):
        assert f"[default: {python}]" not in shown
