"""`softrisk keys`: the file keeps digests, and nothing repeats a key."""

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from softrisk_service.cli_keys import app
from softrisk_service.errors import ConfigurationError
from softrisk_service.keys import read_keys


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(*arguments: str) -> str:
    error = CliRunner().invoke(app, list(arguments)).exception
    assert isinstance(error, ConfigurationError)
    return str(error)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_printed_once_and_kept_as_its_digest(file: Path) -> None:
    token = run("add", "gateway", "--disclosure", "none", "--file", str(file)).strip()
    assert len(token) >= 43
    assert token not in file.read_text()
    assert json.loads(file.read_text()) == {
        "keys": [
            {"name": "gateway", "disclosure": "none", "sha256": hashlib.sha256(token.encode()).hexdigest()},
        ]
    }
    assert file.stat().st_mode & 0o777 == 0o600
    assert run("add", "other", "--file", str(file)).strip() != token


def test_keys_are_listed_and_removed(file: Path) -> None:
    file.touch(0o640)
    file.write_text('{"keys": []}')
    tokens = [
        run("add", name, "--disclosure", level, "--file", str(file)) for name, level in (("a", "full"), ("b", "coarse"))
    ]
    shown = run("list", "--file", str(file))
    rows = [line.split() for line in shown.splitlines()]
    assert [row for row in rows if row[:1] in (["a"], ["b"])] == [["a", "full"], ["b", "coarse"]]
    assert not any(token.strip() in shown for token in tokens)
    run("remove", "a", "--file", str(file))
    assert [key.name for key in read_keys(file)] == ["b"]
    assert file.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in file.parent.iterdir()] == ["keys.json"]


def test_what_cannot_be_done_is_told(file: Path) -> None:
    assert "No such file" in fails("list", "--file", str(file))
    run("add", "a", "--file", str(file))
    before = file.read_bytes()
    assert "already holds a key named a" in fails("add", "a", "--file", str(file))
    assert "begins with a letter or digit" in fails("add", "an a", "--file", str(file))
    assert "holds no key named b" in fails("remove", "b", "--file", str(file))
    assert "cannot be written" in fails("add", "a", "--file", str(file.parent / "nowhere/keys.json"))
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("s3cret", "JSON is not as"),
        ('{"keys": [{"name": "a", "disclosure": "full", "sha256": "s3cret"}]}', "keys.0.sha256"),
        ('{"keys": [{"name": "a", "disclosure": "s3cret", "sha256": "' + 64 * "0" + '"}]}', "keys.0.disclosure"),
        ('{"keys": [], "token": "s3cret"}', "token"),
        (
            json.dumps({"keys": [{"name": "a", "disclosure": "full", "sha256": letter * 64} for letter in "ab"]}),
            "two keys of one name",
        ),
    ],
)
def test_a_file_that_holds_no_keys_is_refused_without_repeating_it(file: Path, content: str, told: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=told) as caught:
        read_keys(file)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
