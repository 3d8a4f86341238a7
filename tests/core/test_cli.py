"""The root command: rooms are loaded when called, errors are one line, missing extras say how to get them."""

import sys
from types import ModuleType

import pytest
import typer

from softrisk_core import __version__, cli
from softrisk_core.errors import SoftriskError


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["softrisk", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def room(monkeypatch: pytest.MonkeyPatch, module: str, error: Exception | None = None) -> list[str]:
    """Put a room with one command in the place of the real one; the list receives what the command was given."""
    given: list[str] = []
    app = typer.Typer(add_completion=False)

    @app.command()
    def command(word: str, loud: bool = False) -> None:
        given.append(f"{word} {loud}")
        if error is not None:
            raise error

    stand_in = ModuleType(module)
    stand_in.app = app  # type: ignore[attr-defined]  # what the root looks for in a room
    monkeypatch.setitem(sys.modules, module, stand_in)
    return given


def test_help_lists_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert command.name in text
        assert command.help in text


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"softrisk {__version__}\n"


def test_a_room_gets_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    given = room(monkeypatch, "softrisk_service.cli")
    assert run(monkeypatch, "serve", "models", "--loud") == 0
    assert given == ["models True"]


def test_a_rooms_help_is_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    room(monkeypatch, "softrisk_service.cli")
    assert run(monkeypatch, "serve", "--help") == 0
    text = capsys.readouterr().out
    assert "softrisk serve" in text
    assert "--loud" in text


def test_wrong_usage_exits_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, "softrisk_service.cli")
    assert run(monkeypatch, "serve", "models", "--quiet") == 2
    assert run(monkeypatch, "no-such-command") == 2


def test_an_error_of_ours_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    room(monkeypatch, "softrisk_service.cli", SoftriskError("no model [bold] in here: make one"))
    assert run(monkeypatch, "serve", "models") == 1
    assert capsys.readouterr().err == "error: no model [bold] in here: make one\n"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, "softrisk_service.cli", ZeroDivisionError("a bug"))
    monkeypatch.setattr(sys, "argv", ["softrisk", "serve", "models"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("fastapi", "softrisk serve needs fastapi, which is not installed: pip install 'softrisk[service]'"),
        ("onnxruntime.capi", "pip install 'softrisk[cpu]', or 'softrisk[gpu]' for CUDA"),
    ],
)
def test_a_missing_extra_is_answered_with_the_install_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str, line: str
) -> None:
    room(monkeypatch, "softrisk_service.cli", ModuleNotFoundError(f"No module named {missing!r}", name=missing))
    assert run(monkeypatch, "serve", "models") == 1
    assert line in capsys.readouterr().err


def test_a_missing_module_of_ours_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, "softrisk_service.cli", ModuleNotFoundError(name="softrisk_service.lost"))
    monkeypatch.setattr(sys, "argv", ["softrisk", "serve", "models"])
    with pytest.raises(ModuleNotFoundError):
        cli.main()
