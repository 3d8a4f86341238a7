"""The package's surface, and the examples of its README."""

from __future__ import annotations

import ast
import re
import types
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import softrisk_client

if TYPE_CHECKING:
    from tests.clients.conftest import FakeService

ROOM = Path(__file__).resolve().parents[2] / "clients" / "python"
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOM / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_all_names_what_is_public() -> None:
    public = [
        name
        for name, value in vars(softrisk_client).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    ]
    assert softrisk_client.__all__ == sorted(public)


def test_every_error_stands_in_the_tree() -> None:
    tree = softrisk_client.SoftriskClientError.__module__
    module = __import__(tree, fromlist=["__doc__"])
    drawn = re.findall(r"\b(\w+Error)\b", (module.__doc__ or "").split("```")[1])
    errors = [v.__name__ for v in vars(module).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert sorted(drawn) == sorted(errors)


def test_nothing_of_ours_nor_numpy_is_imported() -> None:
    imported = {
        name.split(".")[0]
        for path in (ROOM / "softrisk_client").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert {name for name in imported if name.startswith("softrisk")} == {"softrisk_client"}
    assert "numpy" not in imported


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_readme_runs(
    block: str, on_the_network: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("seven.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"pixels")
    Path("odd.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"odd pixels")
    Path("seven.wav").write_bytes(b"RIFF....WAVE")
    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    assert on_the_network.requests


def test_the_gate_of_the_readme_prints_what_it_says(
    on_the_network: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = [block for block in BLOCKS if "match gate" in block]
    test_the_readme_runs(block, on_the_network, tmp_path, monkeypatch)
    assert capsys.readouterr().out.splitlines() == ["seven.png: use seven", "odd.png: turn away"]
